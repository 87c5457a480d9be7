"""The rules one by one, on calls small enough to decide by hand."""

import pytest

from posttrain.errors import DataError
from posttrain.metrics import check_call, check_calls
from posttrain.records import ToolCall

SCHEMAS = {
    "text": {"type": "string"},
    "whole": {"type": "integer"},
    "fraction": {"type": "number"},
    "flag": {"type": "boolean"},
    "texts": {"type": "array", "items": {"type": "string"}},
    "fractions": {"type": "array", "items": {"type": "number"}},
    "box": {"type": "object"},
    "boxes": {"type": "array", "items": {"type": "object"}},
    "anything": {},
    "maybe": {"type": ["integer", "null"]},
}


def tool(name="f", required=(), **properties):
    return {
        "type": "function",
        "function": {"name": name, "parameters": {"type": "object", "properties": properties, "required": required}},
    }


def verdict(kind, value, accepted):
    """The error type for one argument of a schema against its accepted values; "" is right."""
    return check_call(ToolCall("f", {"x": value}), {"f": {"x": accepted}}, tool(x=SCHEMAS[kind])).error_type


@pytest.mark.parametrize(
    ("kind", "value", "accepted", "error"),
    [
        ("text", "New York, NY", ["new york ny"], ""),
        ("text", "4/1/2024", ["4-1.2024"], ""),
        ("text", "it's", ['it"s'], ""),
        ("text", "New York", ["Boston", "NY"], "string"),
        ("text", "a:b", ["ab"], "string"),
        ("text", 5, ["5"], "type"),
        ("text", "  ", ["x", ""], ""),
        ("whole", 5, [5], ""),
        ("whole", 6, [5, 7], "value"),
        ("whole", 5.0, [5], "type"),
        ("whole", True, [1], "type"),
        ("whole", "5", [5], "type"),
        ("whole", "n", ["n"], ""),  # a variable: the answer's own type counts
        ("fraction", 5, [5.0], ""),
        ("fraction", 5, [5], ""),
        ("fraction", True, [1.0], "type"),
        ("fraction", 5.5, [5.0], "value"),
        ("flag", True, [True], ""),
        ("flag", False, [True], "value"),
        ("flag", 1, [True], "type"),
        ("texts", ["A b"], [["ab"]], ""),
        ("texts", ["a", "b"], [["b", "a"]], "list"),
        ("texts", ["a", 1], [["a", "1"]], "nested_type"),
        ("texts", "a", [["a"]], "type"),
        ("texts", [], [["a"], ""], ""),
        ("fractions", [1, 2], [[1.0, 2.0]], "nested_type"),
        ("fractions", [1, 2], [[1, 2]], ""),
        ("box", {"a": "X y"}, [{"a": ["xy", "z"]}], ""),
        ("box", {"a": "q"}, [{"a": ["xy"]}, {"a": ["q"]}], ""),
        ("box", {"a": "q"}, [{"a": ["xy"]}], "dict_value"),
        ("box", {"a": "xy", "b": 1}, [{"a": ["xy"]}], "dict_key"),
        ("box", {}, [{"a": ["xy"]}], "dict_key"),
        ("box", {}, [{"a": ["xy", ""]}], ""),
        ("box", {}, [""], "dict_unclear"),
        ("box", {"a": {"b": 1}}, [{"a": [{"b": 1}]}], ""),
        ("box", {"a": {"b": 2}}, [{"a": [{"b": 1}]}], "dict_value"),
        ("boxes", [{"a": 1}, {"a": 2}], [[{"a": [1]}, {"a": [2]}]], ""),
        ("boxes", [{"a": 2}, {"a": 1}], [[{"a": [1]}, {"a": [2]}]], "dict_value"),
        ("boxes", [{"a": 1}], [[{"a": [1]}, {"a": [2]}]], "list_length"),
        ("boxes", [1], [[{"a": [1]}]], "nested_type"),
        ("anything", 5, [5], ""),
        ("anything", "A b", ["ab"], ""),
        ("anything", 5, ["5"], "type"),
        ("maybe", None, [None], ""),
        ("maybe", 3, [3], ""),
        ("maybe", 4, [3], "value"),
    ],
)
def test_one_argument(kind, value, accepted, error):
    assert verdict(kind, value, accepted) == error


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"a": 1}, ""),
        ({"a": 1, "b": 2}, ""),
        ({"b": 2}, "missing_required"),
        ({"a": 1, "z": 0}, "unexpected_argument"),
        ({"a": 1, "c": 3}, "unexpected_argument"),  # in the signature, but the answer does not have it
    ],
)
def test_which_arguments_are_given(arguments, error):
    offered = tool(required=["a"], a={"type": "integer"}, b={"type": "integer"}, c={"type": "integer"})
    assert check_call(ToolCall("f", arguments), {"f": {"a": [1], "b": [2, ""]}}, offered).error_type == error


def test_an_argument_the_answer_needs_is_missed_though_the_signature_makes_it_optional():
    offered = tool(a={"type": "integer"}, b={"type": "integer"})
    assert check_call(ToolCall("f", {"a": 1}), {"f": {"a": [1], "b": [2]}}, offered).error_type == "missing_argument"


def test_several_calls_are_right_in_any_order_and_wrong_when_one_is_made_twice():
    tools = [tool(a={"type": "integer"}), tool("g", b={"type": "integer"})]
    needed = [{"f": {"a": [1]}}, {"f": {"a": [2]}}, {"g": {"b": [3]}}]
    f1, f2, g3 = ToolCall("f", {"a": 1}), ToolCall("f", {"a": 2}), ToolCall("g", {"b": 3})
    assert check_calls([g3, f2, f1], needed, tools).valid
    assert check_calls([f1, f1, g3], needed, tools).error_type == "no_match"
    assert check_calls([f1, f2], needed, tools).error_type == "wrong_count"
    assert check_calls([f1, f2, g3, g3], needed, tools).error_type == "wrong_count"


def test_where_no_call_is_needed_only_no_call_is_right():
    assert check_calls([], [], [tool()]).valid
    assert check_calls([ToolCall("f", {})], [], [tool()]).error_type == "wrong_count"


def test_a_needed_call_of_another_form_or_another_function_is_the_cases_fault_and_says_so():
    with pytest.raises(DataError, match="'g' is not among those offered"):
        check_calls([ToolCall("g", {})], [{"g": {}}], [tool()])
    for broken in ({"f": {}, "g": {}}, {"f": {"a": "text"}}, {"f": 1}, "f"):
        with pytest.raises(DataError, match="another form"):
            check_calls([ToolCall("f", {})], [broken], [tool()])
