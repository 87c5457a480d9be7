"""The checker against the published one: recorded verdicts, the published answer files, and changes whose truth is known."""

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest
from bfcl_mutations import mutations

from posttrain.data.bfcl import read_bfcl, right_calls
from posttrain.metrics import check_calls, match_calls
from posttrain.records import ToolCall

FOLDER = Path(__file__).parents[1] / "fixtures" / "data" / "bfcl"
CATEGORIES = ("simple_python", "multiple", "parallel", "live_simple")
NO_RIGHT_ANSWER = {"live_simple_106-63-0", "live_simple_112-68-0"}  # a required argument with no accepted value at all
TAKEN_IN_TURN = "parallel_178"  # its first needed call accepts what its third alone needs
PUBLISHED = {
    "": "",
    "wrong_count": "wrong_count",
    "no_match": "cannot_find_match",
    "wrong_function": "wrong_func_name",
    "missing_required": "missing_required",
    "missing_argument": "missing_optional",
    "unexpected_argument": "unexpected_param",
    "type": "type_error:simple",
    "nested_type": "type_error:nested",
    "string": "value_error:string",
    "list": "value_error:list/tuple",
    "dict_key": "value_error:dict_key",
    "dict_value": "value_error:dict_value",
    "list_length": "value_error:list_dict_count",
    "value": "value_error:others",
}


@pytest.fixture(scope="module")
def rows():
    return {row.id: row for category in CATEGORIES for row in read_bfcl(FOLDER / f"BFCL_v4_{category}.json")}


def test_every_right_answer_of_the_answer_files_passes(rows):
    failed = {row.id for row in rows.values() if not check_calls(right_calls(row), row.needed, row.tools).valid}
    assert len(rows) == 720
    assert failed == NO_RIGHT_ANSWER == {row.id for row in rows.values() if not row.answerable}


def test_right_answers_pass_with_dots_written_as_underscores():
    for category in CATEGORIES:
        for row in read_bfcl(FOLDER / f"BFCL_v4_{category}.json", dots="underscore"):
            calls = right_calls(row)
            assert not any("." in call.name for call in calls)
            assert check_calls(calls, row.needed, row.tools).valid == row.answerable


def test_verdicts_and_errors_are_those_of_the_published_checker(rows):
    lines = gzip.decompress((FOLDER / "published_verdicts.jsonl.gz").read_bytes()).decode().splitlines()
    seen = Counter()
    for one in map(json.loads, lines):
        row = rows[one["id"]]
        calls = [ToolCall(name, arguments) for call in one["calls"] for name, arguments in call.items()]
        verdict = check_calls(calls, row.needed, row.tools)
        theirs = one["error_type"].rsplit("checker:", 1)[-1].removeprefix("no_order:")
        theirs = theirs.split("parallel_function_checker_no_order:")[-1]
        assert (verdict.valid, PUBLISHED[verdict.error_type]) == (one["valid"], theirs), one
        seen[verdict.error_type] += 1
    assert sum(seen.values()) >= 700
    assert set(seen) == set(PUBLISHED)  # every kind of error was met
    assert seen[""] >= 200


def test_changes_of_known_truth_get_the_verdict_that_follows_from_the_rules(rows):
    kinds = Counter()
    for row in rows.values():
        if not row.answerable:
            continue
        for one in mutations(row):
            if one.kind == "calls in another order" and row.id == TAKEN_IN_TURN:
                continue
            verdict = check_calls(one.calls, row.needed, row.tools)
            assert verdict.valid == one.valid, (one.kind, row.id, one.calls, verdict)
            assert verdict.error_type == one.error_type, (one.kind, row.id, one.calls, verdict)
            kinds[one.kind] += 1
    assert sum(kinds.values()) >= 5000
    assert len(kinds) == 34


def test_needed_calls_take_the_first_call_that_fits_as_published_so_one_row_depends_on_order(rows):
    row = rows[TAKEN_IN_TURN]
    calls = right_calls(row)
    assert check_calls(calls, row.needed, row.tools).valid
    assert check_calls(calls[::-1], row.needed, row.tools).error_type == "no_match"
    match = match_calls(calls[::-1], row.needed, row.tools)  # the best matching has no such weakness
    assert (match.precision, match.recall, match.arguments) == (1.0, 1.0, 1.0)
