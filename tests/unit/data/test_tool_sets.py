"""The shipped tool sets: made from the files as committed, split by function, free of leaks; pairs of right against wrong calls."""

import gzip
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from posttrain.data import contamination, read_records
from posttrain.data.bfcl import BfclRow, read_bfcl
from posttrain.data.finops import lines
from posttrain.data.tool_sets import CASES, build_tool_sets, split_functions, write_tool_sets
from posttrain.data.writing import record_to_row
from posttrain.data.wrong_calls import wrong_calls
from posttrain.errors import ConfigError
from posttrain.evaluation.cases import read_cases
from posttrain.metrics import check_calls, signature_problem
from posttrain.records import Demonstration, Message, check_record

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "tests" / "fixtures" / "data" / "bfcl"
TRAIN, SUITE = ROOT / "recipes/data/tools-bfcl.jsonl.gz", ROOT / "suites/tools-bfcl.jsonl"


@pytest.fixture(scope="module")
def sets():
    return build_tool_sets(FOLDER)


@pytest.fixture(scope="module")
def rows():
    return [row for category in CASES for row in read_bfcl(FOLDER / f"BFCL_v4_{category}.json", dots="underscore")]


def names(tools):
    return {re.sub(r"[\W_]", "", tool["function"]["name"]).lower() for tool in tools}


def test_the_committed_files_are_what_the_builder_makes(sets):
    assert gzip.decompress(TRAIN.read_bytes()).decode() == lines([record_to_row(one) for one in sets.demonstrations])
    assert SUITE.read_text() == lines(sets.cases)


def test_written_files_are_read_back_equal(sets, tmp_path):
    write_tool_sets(sets, tmp_path / "train.jsonl.gz", tmp_path / "suite.jsonl")
    assert list(read_records(tmp_path / "train.jsonl.gz")) == sets.demonstrations
    assert [case.id for case in read_cases(tmp_path / "suite.jsonl")] == [case["id"] for case in sets.cases]


def test_no_function_is_on_both_sides(sets, rows):
    first, second = split_functions(rows, 17)
    assert len(first) + len(second) == len(rows)
    assert not names(tool for row in first for tool in row.tools) & names(tool for row in second for tool in row.tools)
    train = names(tool for one in sets.demonstrations for tool in one.tools)
    assert not train & names(tool for case in sets.cases for tool in case["tools"])


def test_the_halves_are_near_equal_in_every_category_and_another_seed_gives_others(rows):
    first, _ = split_functions(rows, 17)
    for category, total in Counter(row.category for row in rows).items():
        assert abs(sum(row.category == category for row in first) - total / 2) <= 0.05 * total
    assert {row.id for row in first} != {row.id for row in split_functions(rows, 18)[0]}
    assert {row.id for row in split_functions(rows[::-1], 17)[0]} == {row.id for row in first}


def test_questions_that_read_nearly_alike_stay_on_one_side(rows):
    first, second = split_functions(rows, 17)
    bags = [[frozenset(re.findall(r"\w+", row.question.lower())) for row in side] for side in (first, second)]
    assert max(len(a & b) / len(a | b) for a in bags[0] for b in bags[1]) < 0.67


def test_training_and_suite_pass_the_contamination_check_which_sees_a_planted_case(sets):
    cases = read_cases(SUITE)
    texts = {"tools-bfcl": [(case.id, case.text) for case in cases]}
    contamination(sets.demonstrations, texts).check()
    planted = [Demonstration((*case.messages, sets.demonstrations[0].messages[-1])) for case in cases]
    assert {hit.case_id for hit in contamination([*sets.demonstrations, *planted], texts).hits} == {case.id for case in cases}


def test_every_demonstration_is_right_by_bfcls_rules_and_fits_its_signatures(sets, rows):
    needed = {f"bfcl-{row.id}": row.needed for row in rows}
    assert 300 <= len(sets.demonstrations) <= 400
    for one in sets.demonstrations:
        check_record(one)
        calls = one.messages[-1].tool_calls
        assert check_calls(calls, needed[one.id], one.tools).valid, one.id
        assert not any(signature_problem(call, one.tools) for call in calls), one.id
        assert bool(calls) != bool(one.messages[-1].content)


def test_choosing_parallel_calls_and_abstaining_are_all_there_to_learn(sets):
    calls = Counter(len(one.messages[-1].tool_calls) for one in sets.demonstrations)
    assert calls[0] >= 60
    assert sum(count for number, count in calls.items() if number > 1) >= 40
    assert sum(len(one.tools) > 1 for one in sets.demonstrations) >= 120
    assert len({one.messages[-1].content for one in sets.demonstrations if not one.messages[-1].tool_calls}) >= 20
    silent = [one for one in sets.demonstrations if not one.messages[-1].tool_calls]
    assert any(len(one.tools) > 1 for one in silent)  # the number of functions does not give the answer away


def test_the_suite_has_its_slices_and_few_cases_of_one_function(sets):
    slices = Counter(case["slices"][0] for case in sets.cases)
    assert slices == {"simple": 30, "multiple": 20, "parallel": 15, "irrelevance": 20, "live_simple": 10}
    assert max(Counter((case["slices"][0], case["group"]) for case in sets.cases).values()) <= 2


def test_a_folder_with_too_few_rows_is_refused(tmp_path):
    (tmp_path / "possible_answer").mkdir()
    for category in CASES:
        for place in ("", "possible_answer/"):
            source = FOLDER / f"{place}BFCL_v4_{category}.json.gz"
            if source.exists():
                few = gzip.decompress(source.read_bytes()).decode().splitlines(keepends=True)[:20]
                (tmp_path / f"{place}BFCL_v4_{category}.json").write_text("".join(few))
    with pytest.raises(ConfigError, match=r"'simple_python' has .* cases to choose, 30 are wanted"):
        build_tool_sets(tmp_path)


# ---- pairs ----------------------------------------------------------------------------------------------------------------


def test_in_every_pair_the_chosen_calls_are_right_and_the_rejected_wrong(rows):
    made = Counter()
    for row in rows:
        for pair in wrong_calls(row, seed=5):
            check_record(pair)
            kind = pair.metadata["counterexample"]
            made[kind] += 1
            assert check_calls(pair.chosen[0].tool_calls, row.needed, row.tools).valid, pair.id
            assert not check_calls(pair.rejected[0].tool_calls, row.needed, row.tools).valid, pair.id
    assert made["wrong_value"] >= 700
    assert made["missing_argument"] >= 700
    assert made["missing_call"] >= 700
    assert made["needless_call"] == 180
    assert made["wrong_function"] == 150


def test_wrong_calls_fit_the_signatures_so_only_their_meaning_is_wrong(sets):
    for pair in sets.pairs:
        if pair.metadata["counterexample"] != "missing_argument":
            assert not any(signature_problem(call, pair.tools) for call in pair.rejected[0].tool_calls), pair.id


def test_needed_calls_of_one_function_may_name_different_arguments():
    parameters = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a"]}
    tool = {"type": "function", "function": {"name": "f", "description": "", "parameters": parameters}}
    needed = ({"f": {"a": [1], "b": [2]}}, {"f": {"a": [3]}})
    row = BfclRow("parallel_0", "parallel", ((Message("user", "1 and 2, then 3"),),), (tool,), needed)
    for seed in range(8):
        for pair in wrong_calls(row, seed=seed):
            assert not check_calls(pair.rejected[0].tool_calls, needed, row.tools).valid


def test_pairs_repeat_with_their_seed_and_only_rows_with_a_known_answer_make_any(rows, sets):
    assert wrong_calls(rows[0], seed=1) == wrong_calls(rows[0], seed=1)
    assert {pair.id.rsplit(":", 1)[0] for pair in sets.pairs} == {one.id for one in sets.demonstrations}
    relevance = read_bfcl(FOLDER / "BFCL_v4_live_relevance.json")
    assert [wrong_calls(row, seed=1) for row in relevance] == [[]] * len(relevance)
    assert json.dumps([record_to_row(pair) for pair in sets.pairs[:3]])
