import json
import subprocess
import sys
from pathlib import Path

import pytest

from posttrain.lineage import LineageStore

DATA = {"name": "books", "licence": "CC-BY-4.0", "consent": "public", "provenance": "made by hand"}


def posttrain(*arguments):
    command = [str(Path(sys.executable).with_name("posttrain")), "lineage", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.fixture
def made(tmp_path):
    """A store with two adapters that differ in the learning rate, the first with a file."""
    store = LineageStore(tmp_path / "lineage.db")
    data = store.put("data", DATA)
    adapters = []
    for rate in (1e-4, 2e-4):
        weights = tmp_path / f"adapter-{rate}.bin"
        weights.write_text(str(rate))
        config = store.put("config", {"name": "sft", "learning_rate": rate}, parents=[data])
        adapters.append(store.put("adapter", {"name": "assistant"}, parents=[config], files=[weights]))
    return tmp_path / "lineage.db", data, adapters


def test_show_prints_the_tree_of_the_newest_and_json_the_whole_record(made):
    store, data, (_, newest) = made
    shown = posttrain("show", "--store", store)
    assert shown.returncode == 0
    lines = shown.stdout.splitlines()
    assert lines[0].startswith(newest)
    assert lines[-1].strip().startswith(f"└─ {data}")
    record = json.loads(posttrain("show", newest, "--store", store, "--json").stdout)
    assert record["node"]["id"] == newest
    assert [node["kind"] for node in record["ancestors"]] == ["config", "data"]
    assert record["ancestors"][1]["content"] == DATA


def test_diff_prints_what_was_changed(made):
    store, _, (old, new) = made
    shown = posttrain("diff", old, new, "--store", store)
    assert shown.returncode == 0
    assert "  learning_rate: 0.0001 -> 0.0002" in shown.stdout.splitlines()
    assert "the same on both sides: 1 artefacts" in shown.stdout
    changes = json.loads(posttrain("diff", old, new, "--store", store, "--json").stdout)["changes"]
    assert [change["kind"] for change in changes] == ["config", "adapter"]


def test_verify_exits_with_one_and_names_the_changed_file(made):
    store, _, _ = made
    assert posttrain("verify", "--store", store).returncode == 0
    changed = store.with_name("adapter-0.0002.bin")
    changed.write_text("other")
    shown = posttrain("verify", "--store", store)
    assert shown.returncode == 1
    assert f"{changed}: changed" in shown.stdout
    problems = json.loads(posttrain("verify", "--store", store, "--json").stdout)
    assert (problems["ok"], [problem["what"] for problem in problems["problems"]]) == (False, ["changed"])


def test_an_unknown_id_and_a_missing_store_are_one_message_without_traceback(made, tmp_path):
    store, _, _ = made
    missing = tmp_path / "no.db"
    cases = {("show", "model:77", "--store", store): "no node 'model:77'", ("show", "--store", missing): "no lineage store"}
    for arguments, said in cases.items():
        shown = posttrain(*arguments)
        assert shown.returncode == 2
        assert said in shown.stderr
        assert "Traceback" not in shown.stderr
    assert not missing.exists()
