"""`posttrain suite`, `eval` and `gate` on a tiny model that really answers, and the exit code of each way it can end."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from posttrain.evaluation.results import results_hash

SUITE = """
name: echo
version: "1"
cases: cases.jsonl
sampling: {max_new_tokens: 6}
scorers:
  - length: {name: spoke, unit: tokens}
  - regex: {name: silent_or_not, pattern: "^"}
  - length: {name: brief, unit: tokens, max: 6}
"""
GATE = """
name: echo-gate
suite: suite.yaml
good: {requires: [silent_or_not, brief]}
criteria: [{metric: good, min: 0.85}]
non_inferiority: [{metric: good, margin: 0.1}]
"""


def posttrain(*arguments):
    command = [str(Path(sys.executable).with_name("posttrain")), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def write_suite(root, gate=GATE, num_cases=40):
    rows = [{"id": f"c{i}", "messages": [{"role": "user", "content": f"say {i}"}], "slices": ["all"]} for i in range(num_cases)]
    (root / "cases.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "suite.yaml").write_text(SUITE)
    (root / "gate.yaml").write_text(gate)


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory):
    """A frozen suite and gate, and two tiny models evaluated on it: one from Python, one by the command."""
    from posttrain.evaluation import evaluate, load_suite
    from posttrain.generation import LocalGenerator
    from posttrain.models import write_tiny_model

    root = tmp_path_factory.mktemp("gate")
    write_suite(root)
    assert posttrain("suite", "freeze", root / "gate.yaml").returncode == 0
    for name, seed in (("old", 1), ("new", 2)):
        write_tiny_model(root / f"model-{name}", ["say 1 2 3 4"], seed=seed, vocab_size=300, hidden=32)
    evaluate(load_suite(root / "suite.yaml"), LocalGenerator.load(root / "model-old"), out_dir=root / "old")
    run = posttrain("eval", "-s", root / "suite.yaml", "-m", root / "model-new", "-o", root / "new", "--cache", root / "cache", "--json")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["num_samples"] == 40
    return root


def gate(root, *extra, candidate="new", file="gate.yaml"):
    return posttrain("gate", "-c", root / candidate, "-b", root / "old", "-g", root / file, *extra)


def test_a_candidate_that_holds_ships_with_exit_code_0_and_writes_its_reports(evaluated):
    run = gate(evaluated, "--json", "--report", evaluated / "gate.html", "--junit", evaluated / "junit.xml")
    verdict = json.loads(run.stdout)
    assert (run.returncode, verdict["verdict"], verdict["exit_code"]) == (0, "ship", 0)
    assert "<strong>ship</strong>" in (evaluated / "gate.html").read_text()
    assert ET.parse(evaluated / "junit.xml").getroot().find("testsuite").get("failures") == "0"


def test_the_latency_of_a_real_model_is_measured_and_a_rerun_reuses_its_answers(evaluated):
    first = json.loads((evaluated / "new" / "summary.json").read_text())
    assert first["latency"][0]["num_measured"] == 40
    assert first["latency"][0]["p50"]["value"] > 0
    model, out = evaluated / "model-new", evaluated / "again"
    again = posttrain("eval", "-s", evaluated / "suite.yaml", "-m", model, "-o", out, "--cache", evaluated / "cache")
    assert again.returncode == 0, again.stderr
    assert "every answer came from the cache" in again.stdout
    assert json.loads((out / "summary.json").read_text())["scores"] == first["scores"]


@pytest.mark.parametrize(
    ("criteria", "code", "word"),
    [
        ("criteria: [{metric: spoke, max: 0.5}]", 1, "BLOCK"),
        ("criteria: [{metric: good, min: 0.999}]", 4, "INCONCLUSIVE"),
        ("min_samples: 41", 4, "INCONCLUSIVE"),
    ],
)
def test_the_printed_verdict_equals_the_exit_code(evaluated, tmp_path, criteria, code, word):
    text = GATE.replace("criteria: [{metric: good, min: 0.85}]", criteria)
    write_suite(tmp_path, text)
    assert posttrain("suite", "freeze", tmp_path / "gate.yaml").returncode == 0
    run = posttrain("gate", "-c", evaluated / "new", "-b", evaluated / "old", "-g", tmp_path / "gate.yaml")
    assert run.returncode == code, run.stdout + run.stderr
    assert run.stdout.startswith(word + ":")


def test_results_with_too_many_answers_missing_exit_with_3(evaluated, tmp_path):
    from shutil import copytree

    holes = copytree(evaluated / "new", tmp_path / "holes")
    lines = [json.loads(line) for line in (holes / "results.jsonl").read_text().splitlines()]
    for line in lines[:4]:
        for score in line["scores"].values():
            score.update(value=None, status="unscored", reason="no answer was generated")
    (holes / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary = json.loads((holes / "summary.json").read_text())
    (holes / "summary.json").write_text(json.dumps(summary | {"results_hash": results_hash(holes)}))
    run = posttrain("gate", "-c", holes, "-b", evaluated / "old", "-g", evaluated / "gate.yaml")
    assert run.returncode == 3
    assert run.stdout.startswith("INFRASTRUCTURE:")


def test_usage_errors_exit_with_2_and_one_message(evaluated, tmp_path):
    write_suite(tmp_path)
    never = posttrain("gate", "-c", evaluated / "new", "-b", evaluated / "old", "-g", tmp_path / "gate.yaml")
    assert never.returncode == 2
    assert "never frozen" in never.stderr
    assert "Traceback" not in never.stderr
    assert "->" in never.stderr, "the next step is said"
    nowhere = gate(evaluated, candidate="nowhere")
    assert (nowhere.returncode, "not the results of an evaluation" in nowhere.stderr) == (2, True)


def test_a_suite_changed_after_freezing_stops_check_eval_and_gate(tmp_path, evaluated):
    write_suite(tmp_path)
    assert posttrain("suite", "freeze", tmp_path / "gate.yaml").returncode == 0
    unchanged = posttrain("suite", "check", tmp_path / "gate.yaml")
    assert unchanged.returncode == 0
    cases = tmp_path / "cases.jsonl"
    cases.write_text(cases.read_text().replace('"say 3"', '"say three"'))
    for command, code in (
        (("suite", "check", tmp_path / "suite.yaml"), 1),
        (("eval", "-s", tmp_path / "suite.yaml", "-m", evaluated / "model-old", "-o", tmp_path / "out"), 1),
        (("gate", "-c", evaluated / "new", "-b", evaluated / "old", "-g", tmp_path / "gate.yaml"), 2),
    ):
        run = posttrain(*command)
        assert run.returncode == code, run.stderr
        assert "cases.jsonl:4: case 'c3' changed" in run.stderr
    assert not (tmp_path / "out").exists()


def test_show_prints_a_suite_and_one_case(evaluated):
    shown = json.loads(posttrain("suite", "show", evaluated / "suite.yaml", "--json").stdout)
    assert (shown["cases"], shown["slices"]) == (40, {"all": 40})
    case = posttrain("suite", "show", evaluated / "suite.yaml", "--case", "c7")
    assert "say 7" in case.stdout
    wrong = posttrain("suite", "show", evaluated / "suite.yaml", "--case", "c77")
    assert wrong.returncode == 2
    assert "did you mean" in wrong.stderr
