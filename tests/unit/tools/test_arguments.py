import time

import pytest

from posttrain.tools import InvalidArguments, check_arguments, describe
from posttrain.tools.arguments import hide_secrets, plain_json

PARAMETERS = {
    "type": "object",
    "properties": {
        "account": {"type": "string", "pattern": "^[0-9]{4}$"},
        "amount": {"type": "number", "exclusiveMinimum": 0, "maximum": 1000},
        "currency": {"enum": ["EUR", "USD"]},
        "day": {"type": "string", "format": "date"},
        "lines": {
            "anyOf": [
                {
                    "type": "array",
                    "items": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
                    "maxItems": 2,
                },
                {"type": "null"},
            ]
        },
        "pin": {"type": "string", "format": "password", "minLength": 4},
    },
    "required": ["account"],
    "additionalProperties": False,
}


def problems(**arguments):
    with pytest.raises(InvalidArguments) as caught:
        check_arguments(PARAMETERS, arguments)
    return caught.value.problems


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, ["account is missing; expected string matching ^[0-9]{4}$"]),
        ({"account": 1000}, ["account is 1000; expected string matching ^[0-9]{4}$"]),
        ({"account": "1000", "amount": "12,50"}, ['amount is "12,50"; expected number > 0 <= 1000']),
        ({"account": "1000", "amount": -1}, ["amount is -1; expected number > 0 <= 1000"]),
        ({"account": "1000", "currency": "USd"}, ['currency is "USd"; expected one of "EUR", "USD"; did you mean \'USD\'?']),
        ({"account": "1000", "currency": None}, ['currency is null; expected one of "EUR", "USD"']),
        ({"account": "1000", "acount": 1}, ["acount is not an argument; did you mean 'account'?"]),
        ({"account": "1000", "day": "March"}, ['day is "March"; expected string (date)']),
        ({"account": "1000", "lines": [{"text": "a"}, {"txt": "b"}]}, ["lines.1.text is missing; expected string"]),
        ({"account": "1000", "lines": 5}, ["lines is 5; expected array of object at most 2 items or null"]),
    ],
)
def test_each_problem_names_argument_value_and_what_is_accepted(arguments, said):
    assert problems(**arguments) == said


def test_all_problems_are_told_at_once_and_a_flood_is_bounded():
    assert problems(amount=-1, currency="GBP") == [
        "account is missing; expected string matching ^[0-9]{4}$",
        "amount is -1; expected number > 0 <= 1000",
        'currency is "GBP"; expected one of "EUR", "USD"',
    ]
    flood = problems(account="1000", **{f"x{index}": 1 for index in range(500)})
    assert len(flood) == 9
    assert flood[-1] == "and 492 more"


def test_a_long_value_is_shown_short():
    (only,) = problems(account="1" * 5_000_000)
    assert len(only) < 200
    assert "5,000,002 characters" in only


def test_a_password_is_never_shown():
    assert problems(account="1000", pin="abc") == ["pin is (hidden); expected string (password) at least 4 characters"]
    assert hide_secrets(PARAMETERS, {"account": "1000", "pin": "secret"}) == {"account": "1000", "pin": "(hidden)"}


def test_passwords_deep_inside_are_hidden_too():
    account = {
        "type": "object",
        "properties": {"user": {"type": "string"}, "pin": {"anyOf": [{"type": "string", "writeOnly": True}, {"type": "null"}]}},
    }
    parameters = {"type": "object", "properties": {"accounts": {"type": "array", "items": {"$ref": "#/$defs/A"}}}, "$defs": {"A": account}}
    hidden = hide_secrets(parameters, {"accounts": [{"user": "ada", "pin": "1234"}], "other": [{"pin": "5"}]})
    assert hidden == {"accounts": [{"user": "ada", "pin": "(hidden)"}], "other": [{"pin": "5"}]}


def test_a_password_described_elsewhere_in_the_schema_is_hidden_too():
    secret = {"type": "string", "format": "password"}
    parameters = {
        "type": "object",
        "properties": {
            "pin": {"$ref": "#/$defs/Pin"},
            "keys": {"type": "object", "additionalProperties": {"anyOf": [{"$ref": "#/$defs/Pin"}, {"type": "null"}]}},
            "next": {"$ref": "#"},
            "round": {"anyOf": [{"type": "null"}, {"$ref": "#/properties/round"}, {"$ref": "#/properties/round"}]},
        },
        "minProperties": 3,
        "$defs": {"Pin": secret},
    }
    given = {"pin": "1234", "next": {"pin": "5678"}, "keys": {"a": "9"}}
    assert hide_secrets(parameters, given) == {"pin": "(hidden)", "next": {"pin": "(hidden)"}, "keys": {"a": "(hidden)"}}
    assert hide_secrets(parameters, {"round": {"a": 1}}) == {"round": {"a": 1}}  # a circle of references comes to an end
    with pytest.raises(InvalidArguments) as raised:
        check_arguments(parameters, {"pin": "1234", "keys": {"a": "9"}})
    assert "1234" not in str(raised.value)
    assert '"9"' not in str(raised.value)


def test_a_pattern_that_would_backtrack_for_ever_does_not():
    parameters = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}}
    started = time.monotonic()
    with pytest.raises(InvalidArguments, match="expected string matching"):
        check_arguments(parameters, {"a": "a" * 50_000 + "!"})
    assert time.monotonic() - started < 5


def deep(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (None, "the arguments are null; expected an object"),
        ("{}", 'the arguments are "{}"; expected an object'),
        ([1], r"the arguments are \[1\]; expected an object"),
        ({"a": float("nan")}, "the arguments are not JSON"),
        ({"a": {1, 2}}, "the arguments are not JSON"),
        ({"a": deep(100_000)}, "the arguments are nested too deep"),
    ],
)
def test_what_is_no_json_object_is_told_not_raised_as_something_else(arguments, said):
    with pytest.raises(InvalidArguments, match=said):
        plain_json(arguments)


def test_the_tool_gets_a_copy():
    given = {"lines": [1]}
    plain_json(given)["lines"].append(2)
    assert given == {"lines": [1]}


def test_whole_floats_are_integers_and_booleans_are_not():
    parameters = {"type": "object", "properties": {"n": {"type": "integer"}}}
    check_arguments(parameters, {"n": 5.0})
    with pytest.raises(InvalidArguments, match="n is true; expected integer"):
        check_arguments(parameters, {"n": True})


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (True, "any value"),
        (False, "nothing"),
        ({"const": 5}, "5"),
        ({"type": ["string", "null"]}, "string or null"),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 1}, "array of integer at least 1 items"),
        ({}, "value"),
    ],
)
def test_a_schema_in_a_few_words(schema, words):
    assert describe(schema) == words
