"""Precision, recall and right arguments by best one-to-one matching; fit to signatures; use of results."""

import itertools
import random

import pytest

from posttrain.errors import DataError
from posttrain.metrics import CallMatch, check_call, match_calls, results_used, signature_problem
from posttrain.records import ToolCall

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {"account": {"type": "string"}, "amount": {"type": "number", "minimum": 0}},
                "required": ["account"],
            },
        },
    }
    for name in ("pay", "book")
]


def call(name="pay", **arguments):
    return ToolCall(name, arguments)


def needed(name="pay", **arguments):
    return {name: {key: value if isinstance(value, list) else [value] for key, value in arguments.items()}}


def test_recall_counts_needed_calls_so_repeating_a_right_call_never_lifts_it_above_one():
    match = match_calls([call(account="a")] * 3, [needed(account="a"), needed(account="b")], TOOLS)
    assert (match.precision, match.recall) == (1 / 3, 1 / 2)


def test_the_best_matching_is_found_where_taking_calls_in_turn_would_waste_one():
    wants = [needed(account=["a", "b"]), needed(account="a")]
    assert match_calls([call(account="a"), call(account="b")], wants, TOOLS).num_correct == 2


def test_the_number_of_right_calls_is_the_largest_any_pairing_reaches():
    rng = random.Random(4)
    for _ in range(60):
        made = [call(account=rng.choice("abc")) for _ in range(rng.randrange(5))]
        wants = [needed(account=rng.sample("abc", rng.randrange(1, 4))) for _ in range(rng.randrange(1, 5))]
        size = min(len(made), len(wants))
        best = max(
            sum(check_call(made[i], wants[j], TOOLS[0]).valid for i, j in zip(rows, columns, strict=True))
            for rows in itertools.permutations(range(len(made)), size)
            for columns in itertools.combinations(range(len(wants)), size)
        )
        assert match_calls(made, wants, TOOLS).num_correct == best


def test_arguments_are_counted_over_calls_of_the_right_name_given_or_called_for():
    # pay: account right, amount wrong; memo is not called for. book has no partner.
    match = match_calls([call(account="a", amount=2, memo="x"), call("book", account="z")], [needed(account="a", amount=1.0)], TOOLS)
    assert (match.num_arguments, match.num_right_arguments) == (3, 1)
    assert match_calls([call(account="a")], [needed(account="a", amount=1.0)], TOOLS).arguments == 1 / 2
    assert match_calls([call(account="a")], [needed(account="a", amount=[1.0, ""])], TOOLS).arguments == 1.0


def test_of_two_calls_to_one_function_each_is_paired_with_the_needed_call_it_resembles_most():
    made = [call(account="b", amount=9), call(account="a", amount=9)]
    match = match_calls(made, [needed(account="a", amount=1), needed(account="b", amount=2)], TOOLS)
    assert (match.num_right_arguments, match.num_arguments) == (2, 4)


def test_a_call_of_the_right_name_is_paired_even_when_none_of_its_arguments_is_right():
    match = match_calls([call(account="x", amount=7)], [needed("book", account="x"), needed(account="a", amount=1)], TOOLS)
    assert (match.num_right_arguments, match.num_arguments) == (0, 2)


def test_shares_without_a_denominator_are_none():
    assert match_calls([], [], TOOLS) == CallMatch(0, 0, 0, 0, 0)
    nothing = match_calls([], [needed(account="a")], TOOLS)
    assert (nothing.precision, nothing.recall, nothing.arguments) == (None, 0.0, None)
    needless = match_calls([call(account="a")], [], TOOLS)
    assert (needless.precision, needless.recall) == (0.0, None)


def test_matches_add_up_to_pooled_figures():
    pooled = match_calls([call(account="a")], [needed(account="a")], TOOLS) + match_calls([call("book")] * 3, [needed(account="a")], TOOLS)
    assert (pooled.precision, pooled.recall) == (1 / 4, 1 / 2)


def test_a_needed_function_that_is_not_offered_is_the_cases_fault():
    with pytest.raises(DataError, match="'steal' is not among"):
        match_calls([], [needed("steal")], TOOLS)


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        (call(account="wrong but well formed", amount=3), ""),
        (call("fly", account="a"), "'fly' is not among the tools"),
        (call(""), "could not be read"),
        (call(amount=3), "'account' is a required property"),
        (call(account=5), "5 is not of type 'string'"),
        (call(account="a", amount=-1), "less than the minimum"),
        (call(account="a", memo="x"), "has no argument 'memo'"),
    ],
)
def test_a_call_fits_a_signature_or_the_reason_is_given(made, problem):
    found = signature_problem(made, TOOLS)
    assert problem in found
    assert bool(found) == bool(problem)


def test_a_signature_may_allow_arguments_that_it_does_not_name():
    offered = [{"function": {"name": "pay", "parameters": {"type": "object", "additionalProperties": True}}}]
    assert signature_problem(call(anything=1), offered) == ""


def test_a_signature_that_is_no_schema_is_refused():
    with pytest.raises(DataError, match="no JSON Schema"):
        signature_problem(call(a=1), [{"function": {"name": "pay", "parameters": {"type": "dict", "properties": {"a": {}}}}}])


@pytest.mark.parametrize("reference", ["#/$defs/Nowhere", "http://127.0.0.1:9/schema.json", "#/properties/a"])
def test_a_reference_that_leads_nowhere_is_the_signatures_fault_and_nothing_is_fetched(reference):
    parameters = {"type": "object", "properties": {"a": {"$ref": reference}}}
    with pytest.raises(DataError, match="its parameters cannot be applied"):
        signature_problem(call(a=1), [{"function": {"name": "pay", "parameters": parameters}}])


def test_a_result_is_used_when_the_answer_repeats_a_number_of_it_that_the_question_did_not_hold():
    result = '{"account": "4000", "balance": -1250.5}'
    assert results_used([result], "It is overdrawn by $1,250.50.", "What is the balance of account 4000?") == 1.0
    assert results_used([result], "Account 4000 has a balance.", "What is the balance of account 4000?") == 0.0
    assert results_used([result, '{"balance": 77}'], "They are 77.", "balances?") == 0.5
    assert results_used(['{"rate": 0.125}'], "It is 12.5 %.") == 1.0
    assert results_used(['{"invoice": "INV-2031"}'], "The invoice is INV-2031.") == 1.0


def test_a_result_without_numbers_is_used_by_its_words_and_one_that_says_nothing_new_is_left_out():
    assert results_used(["approved by Miller"], "Miller approved it.", "Who approved it?") == 1.0
    assert results_used(["approved by Miller"], "Somebody did.", "Who approved it?") == 0.0
    assert results_used(["", "ok"], "Done.", "Pay.") is None
