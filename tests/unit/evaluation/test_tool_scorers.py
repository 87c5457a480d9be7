"""What the two scorers of tool use say, three-valued, about answers with and without calls."""

from pathlib import Path

import pytest

from posttrain.config import parse
from posttrain.data.bfcl import read_bfcl, right_calls
from posttrain.data.tool_sets import CASES
from posttrain.evaluation import Case, ScorerContext, scorers
from posttrain.evaluation.evaluate import score_sample
from posttrain.evaluation.suite import read_suite
from posttrain.records import CallRecord, Generation, Message

ROOT = Path(__file__).parents[3]

TOOLS = (
    {
        "type": "function",
        "function": {
            "name": "get_balance",
            "parameters": {
                "type": "object",
                "properties": {"account": {"type": "string"}, "day": {"type": "string"}},
                "required": ["account"],
            },
        },
    },
    {"type": "function", "function": {"name": "pay", "parameters": {"type": "object", "properties": {"amount": {"type": "number"}}}}},
)
NEEDED = {"calls": [{"get_balance": {"account": ["4000"], "day": ["2024-01-31", ""]}}]}
RIGHT = ("get_balance", {"account": "4000"})


def made(name, arguments, *, status="ok", result="", is_error=False):
    return CallRecord(name, arguments, status, result, is_error, step=0)


def scores(expected, *calls, text="", kind="tool_calls", tools=TOOLS, name=None):
    entry = scorers.get(kind)
    score = entry.build(parse(entry.options, {}, where="test"), name or kind, ScorerContext(None))
    generation = Generation(text, "stop", 3, 7, 0.1, calls=tuple(one if isinstance(one, CallRecord) else made(*one) for one in calls))
    found = score(Case("c", (Message("user", "What does account 4000 hold?"),), tools, expected), generation)
    assert [one.name for one in found] == entry.outputs(name or kind) or {one.name for one in found} == set(entry.outputs(name or kind))
    return {one.name.removeprefix("tool_calls").lstrip("_") or "whole": one for one in found}


def values(found):
    return {name: one.value if one.status == "scored" else one.status for name, one in found.items()}


def test_the_right_call_passes_everywhere_and_abstention_does_not_arise():
    assert values(scores(NEEDED, RIGHT)) == {
        "whole": 1,
        "valid": 1,
        "precision": 1,
        "recall": 1,
        "arguments": 1,
        "abstained": "not_applicable",
        "count": 1,
    }


def test_valid_and_right_are_separate():
    wrong = values(scores(NEEDED, ("get_balance", {"account": "9999"})))
    assert (wrong["valid"], wrong["whole"], wrong["precision"], wrong["arguments"]) == (1, 0, 0, 0)
    invalid = values(scores(NEEDED, ("get_balance", {"account": 4000})))
    assert (invalid["valid"], invalid["whole"]) == (0, 0)


def test_an_answer_in_words_is_no_call():
    told = values(scores(NEEDED, text='{"name": "get_balance", "arguments": {"account": "4000"}}'))
    assert (told["whole"], told["recall"], told["count"]) == (0, 0, 0)
    assert told["valid"] == told["precision"] == told["arguments"] == "not_applicable"


def test_where_no_call_is_needed_calling_is_wrong_and_abstaining_right():
    quiet, loud = values(scores({"calls": []}, text="I have no tool for that.")), values(scores({"calls": []}, RIGHT))
    assert (quiet["whole"], quiet["abstained"], quiet["precision"], quiet["recall"]) == (1, 1, "not_applicable", "not_applicable")
    assert (loud["whole"], loud["abstained"], loud["precision"], loud["valid"]) == (0, 0, 0, 1)


def test_a_turn_that_could_not_be_read_counts_as_a_wrong_call():
    garbled = made("", {}, status="error", is_error=True)
    after = values(scores(NEEDED, garbled, RIGHT))
    assert (after["whole"], after["valid"], after["precision"], after["recall"], after["count"]) == (0, 0, 0.5, 1, 2)
    assert values(scores({"calls": []}, garbled))["abstained"] == 0


def test_where_any_call_will_do_any_readable_call_passes():
    assert values(scores({"calls": "any"}, ("pay", {"amount": 1})))["whole"] == 1
    assert values(scores({"calls": "any"}))["whole"] == 0
    assert values(scores({"calls": "any"}, made("", {}, status="error", is_error=True)))["whole"] == 0


@pytest.mark.parametrize("expected", [None, {"answer": {}}, "text"])
def test_a_case_that_does_not_say_what_is_needed_is_still_held_to_the_signatures(expected):
    found = values(scores(expected, ("fly", {})))
    assert (found["valid"], found["count"]) == (0, 1)
    assert {found[name] for name in ("whole", "precision", "recall", "arguments", "abstained")} == {"not_applicable"}


def test_a_broken_case_is_unscored_and_never_zero():
    for broken in ({"calls": [{"unknown": {}}]}, {"calls": ["get_balance"]}, {"calls": 5}):
        found = scores(broken, RIGHT)
        assert found["whole"].status == found["recall"].status == "unscored"
        assert found["whole"].reason
    assert (
        scores(NEEDED, RIGHT, tools=({"function": {"name": "get_balance", "parameters": {"type": "dict"}}},))["valid"].status == "unscored"
    )


def test_a_wrong_answer_says_why_and_is_labelled_by_the_rule():
    found = scores(NEEDED, ("get_balance", {"account": "9999"}))
    assert found["whole"].label == "string"
    assert "'9999'" in found["whole"].reason
    assert found["precision"].kind == found["recall"].kind == found["arguments"].kind == "fraction"
    assert found["count"].kind == "amount"


def results(*calls, text=""):
    return values(scores(None, *calls, text=text, kind="tool_results", name="tool_calls"))


def test_success_is_the_share_of_calls_without_an_error_and_use_the_share_of_results_repeated():
    good, failed = made(*RIGHT, result='{"balance": 812.4}'), made("pay", {}, status="forbidden", result="not allowed", is_error=True)
    assert results(good, failed, text="It holds 812.40.") == {"success": 0.5, "used": 1}
    assert results(good, text="It holds 4000.") == {"success": 1, "used": 0}


def test_results_that_nobody_made_are_not_applicable():
    assert results(RIGHT, text="812") == {"success": "not_applicable", "used": "not_applicable"}
    assert results(text="812") == {"success": "not_applicable", "used": "not_applicable"}


def test_on_the_shipped_cases_right_answers_score_one_and_silence_only_where_no_call_is_needed(tmp_path):
    suite_file = tmp_path / "suite.yaml"
    (tmp_path / "cases.jsonl").write_text((ROOT / "suites/tools-bfcl.jsonl").read_text())
    suite_file.write_text('name: tools\nversion: "1"\ncases: cases.jsonl\nscorers:\n  - tool_calls: {name: calls}\n')
    suite = read_suite(suite_file)
    folder = ROOT / "tests" / "fixtures" / "data" / "bfcl"
    rows = {f"bfcl-{row.id}": row for name in CASES for row in read_bfcl(folder / f"BFCL_v4_{name}.json", dots="underscore")}
    for case in suite.cases:
        calls = tuple(made(call.name, call.arguments) for call in right_calls(rows[case.id]))
        right = score_sample(suite.scorers, case, Generation("", "stop", 3, 7, 0.1, calls=calls))
        assert {one.value for name, one in right.items() if one.status == "scored" and name != "calls_count"} == {1.0}
        silent = score_sample(suite.scorers, case, Generation("no", "stop", 3, 7, 0.1))
        assert silent["calls"].value == float(case.expected["calls"] == [])
