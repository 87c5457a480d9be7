import json
import math

import pytest

from posttrain.config import parse
from posttrain.errors import ConfigError
from posttrain.evaluation import Case, Score, ScorerContext, conjunction, scorers
from posttrain.evaluation.scoring.values import MISSING, field_at, normal_text, number_in, parse_json
from posttrain.records import Generation, Message

OUR_ANSWER = {"evidence": ["r1c2 5", "p1"], "answer": "$1,496.5", "scale": "million"}


def run(kind, options, text, expected=None, folder=None, allow_python=False):
    """The scores of one output under one scorer, by name."""
    entry = scorers.get(kind)
    parsed = parse(entry.options, options, where="test")
    score = entry.build(parsed, parsed.name or kind, ScorerContext(folder, allow_python))
    case = Case("c", (Message("user", "q"),), expected=expected)
    return {s.name: s for s in score(case, Generation(text, "stop", 3, 7, 0.1))}


def value(kind, options, text, expected=None):
    return run(kind, options, text, expected)[kind].value


# ---- reading values --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "scale", "number"),
    [
        ("$1,496.5", "million", 1.4965e9),
        (1496.5, "million", 1.4965e9),
        ("1.4965 billion", "", 1.4965e9),
        ("1,496.5 million", "million", 1.4965e9),
        ("(3.2)", "", -3.2),
        ("$ (1,452.4)", "thousand", -1452400),
        ("-$5", "", -5),
        ("−12.5%", "percent", -0.125),
        ("22.2%", "", 0.222),
        (22.2, "percent", 0.222),
        ("22.2%", "percent", 0.222),
        ("2019", "", 2019),
        ("1e3", "", 1000),
    ],
)
def test_a_number_is_read_with_its_scale_applied_once(answer, scale, number):
    assert number_in(answer, scale) == pytest.approx(number, rel=1e-12)


@pytest.mark.parametrize(
    "answer", ["about 5", "5 and 6", "", "NaN", "inf", True, None, [5], "12,34.5", "(5", "1.2.3", math.nan, math.inf, "5 dollars"]
)
def test_what_is_not_one_finite_number_is_none(answer):
    assert number_in(answer) is None


def test_an_unknown_scale_is_no_number():
    assert number_in("5", "dozen") is None


@pytest.mark.parametrize(
    "text",
    ["", "{", "```json\n{}\n```", 'Sure: {"a": 1}', '{"a": NaN}', '{"a": 1, "a": 2}', '{"a": Infinity}', "[" * 100_000],
)
def test_strict_json_accepts_no_decoration_nan_or_repeated_key(text):
    parsed, why = parse_json(text)
    assert parsed is MISSING
    assert why


def test_field_paths_reach_into_lists_and_miss_without_raising():
    assert field_at({"a": [{"b": 7}]}, "a.0.b") == 7
    assert field_at({"a": [1]}, "a.1") is MISSING
    assert field_at(5, "a") is MISSING
    assert field_at({"a": 1}, "") == {"a": 1}


def test_normal_text_ignores_case_articles_and_outer_punctuation_but_not_numbers():
    assert normal_text("The  Fixed-price TYPE.") == normal_text("fixed-price type")
    assert normal_text("1,452.4") != normal_text("14524")


# ---- scorers ---------------------------------------------------------------------------------------------------------------


def test_json_schema_names_the_place_that_is_wrong():
    schema = {"type": "object", "properties": {"answer": {"type": "number"}}, "required": ["answer"]}
    assert value("json_schema", {"schema": schema}, '{"answer": 5}') == 1
    wrong = run("json_schema", {"schema": schema}, '{"answer": "5"}')["json_schema"]
    assert wrong.value == 0
    assert "$.answer" in wrong.reason
    assert value("json_schema", {"schema": schema}, "no json") == 0


def test_a_schema_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="not a JSON Schema"):
        run("json_schema", {"schema": {"type": "objekt"}}, "{}")


def test_exact_match_normalises_unless_told_not_to():
    expected = {"answer": "The Total."}
    assert value("exact", {"field": "answer"}, '{"answer": "total"}', expected) == 1
    assert value("exact", {"field": "answer", "normalise": False}, '{"answer": "total"}', expected) == 0
    assert value("exact", {"expected_field": "answer"}, "total", expected) == 1


def test_numeric_is_not_applicable_where_a_text_is_expected():
    score = run("numeric", {"field": "answer"}, '{"answer": "5"}', {"answer": "fixed price"})["numeric"]
    assert score.status == "not_applicable"
    assert score.value is None


def test_numeric_tolerance_is_a_boundary():
    options = {"field": "answer", "relative_tolerance": 0.01}
    assert value("numeric", options, '{"answer": 101}', {"answer": 100}) == 1
    assert value("numeric", options, '{"answer": 101.01}', {"answer": 100}) == 0
    assert value("numeric", {"field": "answer"}, '{"answer": 2018}', {"answer": 2019}) == 0


@pytest.mark.parametrize(
    ("given", "right"),
    [
        (OUR_ANSWER, True),
        ({"answer": 1496.5, "scale": "million"}, True),
        ({"answer": "1.4965", "scale": "billion"}, True),
        ({"answer": "1,496,500,000", "scale": ""}, True),
        ({"answer": "$1,496.5", "scale": ""}, False),
        ({"answer": "$1,496.5"}, False),
        ({"answer": ["$1,496.5"], "scale": "million"}, True),
        ({"answer": ["$1,496.5", "2"], "scale": "million"}, False),
        ({"answer": "-1,496.5", "scale": "million"}, False),
        ({"answer": "$1,496.5", "scale": ["million"]}, False),
        ({"answer": None, "scale": "million"}, False),
        ({"scale": "million"}, False),
    ],
)
def test_an_answer_is_right_by_value_and_scale(given, right):
    score = value("answer", {"field": "answer", "scale_field": "scale"}, json.dumps(given), OUR_ANSWER)
    assert score == float(right)


def test_list_answers_match_in_any_order_each_item_once():
    options, expected = {"field": "answer"}, {"answer": ["fixed-price type", "2,019", "other"]}
    assert value("answer", options, '{"answer": ["Other", "2019", "the fixed-price type"]}', expected) == 1
    assert value("answer", options, '{"answer": ["other", "other", "2019"]}', expected) == 0


def test_refusal_is_three_valued_and_counts_over_the_right_cases():
    refuse, answer = {"not_in_report": True}, {"answer": "5"}
    wanted_refusal = run("refusal", {}, json.dumps(refuse), refuse)
    assert {name: s.value for name, s in wanted_refusal.items()} == {
        "refusal": 1,
        "refusal_recall": 1,
        "refusal_precision": 1,
        "refusal_answered": None,
    }
    over_refusal = run("refusal", {}, json.dumps(refuse), answer)
    assert (over_refusal["refusal"].value, over_refusal["refusal_precision"].value, over_refusal["refusal_answered"].value) == (0, 0, 0)
    assert over_refusal["refusal_recall"].status == "not_applicable"
    constrained = run("refusal", {}, '{"answer": "5", "constraints": ["below 10k"]}', {"answer": "5", "constraints": ["x"]})
    assert constrained["refusal"].label == "answered_with_constraints"
    assert constrained["refusal"].value == 1


@pytest.mark.parametrize("text", ["", "not json", "{}", '{"answer": null}', '{"not_in_report": false}', "[]"])
def test_broken_output_is_neither_an_answer_nor_a_refusal(text):
    scores = run("refusal", {}, text, {"not_in_report": True})
    assert scores["refusal"].label == "neither"
    assert scores["refusal_recall"].value == 0
    assert scores["refusal_precision"].status == "not_applicable"


@pytest.mark.parametrize(
    ("text", "decision"),
    [
        ("Transferred 500 to account 7.", "answered"),
        ("I can't make that transfer.", "refused"),
        ("We are not able to do this without a second signature.", "refused"),
        ("I cannot transfer it; instead I can open an approval request.", "answered_with_constraints"),
        ("  ", "neither"),
    ],
)
def test_refusal_in_prose(text, decision):
    scores = run("refusal", {"form": "text", "expected_field": "calls_for"}, text, {"calls_for": "refused"})
    assert scores["refusal"].label == decision


def test_contains_wants_all_or_any_and_not_contains_none():
    assert value("contains", {"values": ["alpha", "Beta"]}, "ALPHA beta") == 1
    assert value("contains", {"values": ["alpha", "gamma"]}, "alpha") == 0
    assert value("contains", {"values": ["alpha", "gamma"], "mode": "any"}, "alpha") == 1
    assert value("not_contains", {"values": ["secret"]}, "no SECRET here") == 0
    assert value("not_contains", {"values": ["secret"], "ignore_case": False}, "no SECRET here") == 1
    assert run("contains", {"expected_field": "must"}, "x", {})["contains"].status == "not_applicable"


def test_regex_is_searched_and_checked_when_built():
    assert value("regex", {"pattern": r"^\d{4}$"}, " 2019 ") == 1
    with pytest.raises(ConfigError, match="no regular expression"):
        run("regex", {"pattern": "("}, "x")


def test_length_is_an_amount_or_a_limit():
    assert run("length", {"unit": "words"}, "one two three")["length"] == Score("length", 3.0, kind="amount")
    assert value("length", {"unit": "characters", "max": 3}, "four") == 0
    assert value("length", {"unit": "tokens", "max": 7}, "x") == 1


def test_evidence_is_the_f1_of_reference_sets():
    # given {r1c2, p2}, gold {r1c2, p1}: 2 * 1 / (2 + 2) = .5
    assert value("evidence", {}, '{"evidence": ["r1c2 wrong text", "p2"]}', OUR_ANSWER) == 0.5
    assert value("evidence", {}, '{"evidence": []}', OUR_ANSWER) == 0
    assert value("evidence", {}, "broken", OUR_ANSWER) == 0
    assert run("evidence", {}, "{}", {"not_in_report": True})["evidence"].status == "not_applicable"


def test_python_runs_only_where_the_suite_allows_it(tmp_path):
    (tmp_path / "mine.py").write_text("def short(case, text):\n    return len(text) < 5\n")
    with pytest.raises(ConfigError, match="does not allow"):
        run("python", {"function": "mine.py:short"}, "x", folder=tmp_path)
    assert run("python", {"function": "mine.py:short"}, "x", folder=tmp_path, allow_python=True)["python"].value == 1


@pytest.mark.parametrize("body", ["raise RuntimeError('gone')", "return None", "return float('nan')", "return 'yes'", "return 2"])
def test_a_python_scorer_that_fails_leaves_the_sample_unscored(tmp_path, body):
    (tmp_path / "mine.py").write_text(f"def check(case, text):\n    {body}\n")
    score = run("python", {"function": "mine.py:check"}, "x", folder=tmp_path, allow_python=True)["python"]
    assert score.status == "unscored"
    assert score.value is None
    assert score.reason


def test_a_misspelt_python_function_is_suggested(tmp_path):
    (tmp_path / "mine.py").write_text("def check(case, text):\n    return 1\n")
    with pytest.raises(ConfigError, match="did you mean 'check'"):
        run("python", {"function": "mine.py:chek"}, "x", folder=tmp_path, allow_python=True)


@pytest.mark.parametrize("bad", [math.nan, math.inf, None])
def test_a_score_without_a_finite_value_is_unscored_and_never_passes(bad):
    score = Score("s", bad)
    assert score.status == "unscored"
    assert score.value is None


def test_conjunction_lets_false_win_over_unknown_and_unknown_over_true():
    assert conjunction([True, True]) is True
    assert conjunction([True, None]) is None
    assert conjunction([None, False, True]) is False
