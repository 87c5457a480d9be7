"""The shipped files of the preference recipe: split by prompt, never for imitation where the source says so."""

import json
from itertools import combinations
from pathlib import Path

import pytest

from posttrain.data import read_records
from posttrain.data.preferences import SPLITS, _harmless
from posttrain.records import Comparison, PreferencePair

ROOT = Path(__file__).parents[3]
FILES = ("policy", "reward", "held-out", "calibration", "test-harmless", "test-qa", "test-instructions")


def records(name):
    kind = Comparison if name in ("policy", "reward", "held-out") else PreferencePair
    return list(read_records(ROOT / f"recipes/data/preference-{name}.jsonl.gz", kind))


def prompts(rows):
    return {row.metadata.get("question") or next(m.content for m in row.prompt if m.role == "user").strip().lower() for row in rows}


@pytest.fixture(scope="module")
def files():
    return {name: records(name) for name in FILES}


def test_no_prompt_is_in_two_files_or_in_the_suite(files):
    asked = {name: prompts(rows) for name, rows in files.items()}
    cases = [json.loads(line) for line in (ROOT / "suites/preference.jsonl").read_text(encoding="utf-8").splitlines()]
    asked["suite"] = {case["messages"][0]["content"].rpartition("Question: ")[2].strip().lower() for case in cases}
    asked = {name: {prompt.lower() for prompt in found} for name, found in asked.items()}
    for a, b in combinations(asked, 2):
        assert not asked[a] & asked[b], (a, b)


def test_training_files_hold_as_many_comparisons_of_each_source_as_planned(files):
    for name in ("policy", "reward", "held-out"):
        counts = {source: sum(row.source == source for row in files[name]) for source in SPLITS[name]}
        assert counts == SPLITS[name]


def test_harmless_rows_are_never_for_imitation(files):
    for rows in files.values():
        assert all((row.metadata.get("imitation") is False) == (row.source == "harmless") for row in rows)


def test_the_preferred_answer_stands_on_either_side(files):
    harmless = [row for row in files["reward"] if row.source == "harmless"]
    first = sum(row.judgements[0].choice == "a" for row in harmless)
    assert 0.3 < first / len(harmless) < 0.7


def test_three_people_judged_every_instruction(files):
    assert all(len(row.judgements) == 3 for row in files["policy"] if row.source == "instructions")


def test_a_row_with_an_empty_answer_is_left_out_and_nothing_is_written_beside_the_original(tmp_path):
    rows = [
        {"chosen": f"\n\nHuman: {n}?\n\nAssistant: yes", "rejected": f"\n\nHuman: {n}?\n\nAssistant: {'no' if n else ''}"} for n in range(3)
    ]
    (tmp_path / "hh.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [one.prompt[0].content for one in _harmless(tmp_path / "hh.jsonl")] == ["1?", "2?"]
    assert [file.name for file in tmp_path.iterdir()] == ["hh.jsonl"]
