"""Right answers changed in one known way each, so that the verdict follows from the rules and not from a checker."""

import copy
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from posttrain.data.bfcl import BfclRow, right_calls
from posttrain.records import ToolCall


@dataclass(frozen=True)
class Mutation:
    """An answer to ``row`` and the truth about it; ``error_type`` is the verdict's where the row needs one call."""

    kind: str
    row: BfclRow
    calls: tuple[ToolCall, ...]
    valid: bool
    error_type: str


def mutations(row: BfclRow) -> Iterator[Mutation]:
    """Every change that can be made to the row's right answer with a verdict known beforehand."""
    right = right_calls(row)
    yield Mutation("right", row, right, True, "")
    yield Mutation("one call too many", row, (*right, right[0]), False, "wrong_count")
    yield Mutation("no call", row, (), False, "wrong_count")
    if len(right) > 1:
        yield Mutation("calls in another order", row, right[::-1], True, "")
        yield Mutation("one call too few", row, right[1:], False, "wrong_count")
    call, needed = right[0], row.needed[0][right[0].name]
    schema = next(tool["function"]["parameters"] for tool in row.tools if tool["function"]["name"] == call.name)
    for kind, name, arguments, valid, error in _changed(call, needed, schema):
        # A change that another needed call of a parallel row might accept has no known verdict.
        if valid or len(right) == 1:
            yield Mutation(kind, row, (ToolCall(name, arguments), *right[1:]), valid, error)


def _changed(call: ToolCall, needed: dict[str, list[Any]], schema: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any], bool, str]]:
    given = copy.deepcopy(dict(call.arguments))
    yield "wrong function", call.name + "_2", given, False, "wrong_function"
    yield "extra argument", call.name, {**given, "not_a_parameter": 1}, False, "unexpected_argument"
    for argument, value in given.items():
        without = {name: one for name, one in given.items() if name != argument}
        if argument in schema.get("required", ()):
            yield "missing required", call.name, without, False, "missing_required"
        elif "" not in needed[argument]:
            yield "missing, not optional in the answer", call.name, without, False, "missing_argument"
        else:
            yield "optional left out", call.name, without, True, ""
        for kind, other, valid, error in _other(value, needed[argument], schema["properties"][argument]):
            yield kind, call.name, {**given, argument: other}, valid, error
    for argument, values in needed.items():
        plain = [one for one in values if one != "" and isinstance(one, str | int | float)]
        if argument not in given and plain and argument in schema["properties"]:
            yield "optional given", call.name, {**given, argument: plain[0]}, True, ""


def _other(value: Any, accepted: list[Any], schema: dict[str, Any]) -> Iterator[tuple[str, Any, bool, str]]:
    """(kind, another value, whether it is accepted, error type) for values whose accepted ones are all of the signature's type."""
    given = [one for one in accepted if one != ""]
    kind = schema.get("type")
    if kind == "string" and all(isinstance(one, str) for one in given):
        yield "case and punctuation", f" {value.upper()}.".replace(" ", "-_ "), True, ""
        yield "other text", value + " zzqx", False, "string"
        yield "number for text", 12345, False, "type"
    elif kind == "integer" and all(type(one) is int for one in given):
        yield "other number", max(given) + 1000003, False, "value"
        yield "text for number", str(value), False, "type"
        yield "fraction for whole number", float(value), False, "type"
        yield "truth for whole number", True, False, "type"
    elif kind == "number" and all(type(one) in (int, float) for one in given):
        yield "other fraction", float(max(given)) + 1000003.5, False, "value"
        if float(value).is_integer() and all(type(one) is float for one in given):
            yield "whole number for fraction", int(value), True, ""
    elif kind == "boolean" and all(type(one) is bool for one in given):
        yield "text for truth", str(value).lower(), False, "type"
        if len(set(given)) == 1:
            yield "other truth", not value, False, "value"
    elif kind == "array" and value and all(isinstance(one, list) for one in given):
        yield from _other_list(value, given, accepted, (schema.get("items") or {}).get("type"))
    elif kind == "object" and value and all(isinstance(one, dict) for one in given):
        yield "unknown key", {**value, "zz_key": 1}, False, "dict_key"
        if len(given) == 1:
            key = random.Random(0).choice(sorted(value))
            yield "other value of a key", {**value, key: "zzqx"}, False, "dict_value"
            if "" not in given[0][key]:
                yield "missing key", {name: one for name, one in value.items() if name != key}, False, "dict_key"


def _other_list(value: list[Any], given: list[Any], accepted: list[Any], items: str | None) -> Iterator[tuple[str, Any, bool, str]]:
    if items == "object" and len(given) == 1:
        yield "one object too many", [*value, value[0]], False, "list_length"
        yield "unknown key in a list", [{**value[0], "zz_key": 1}, *value[1:]], False, "dict_key"
    elif items == "string" and all(isinstance(item, str) for one in given for item in one):
        yield "case in a list", [item.upper() for item in value], True, ""
        yield "other text in a list", [*value[:-1], "zzqx"], False, "list"
        if "" not in accepted:
            yield "number in a list of texts", [*value[:-1], 7], False, "nested_type"
    elif items == "integer" and all(type(item) is int for one in given for item in one):
        yield "list too long", [*value, 1000003], False, "list"
        if value[::-1] not in given:
            yield "list in another order", value[::-1], False, "list"
        if "" not in accepted:
            yield "fraction in a list", [value[0] + 0.5, *value[1:]], False, "nested_type"
    elif items == "number" and all(type(item) is float for one in given for item in one) and "" not in accepted and value:
        yield "whole number in a list of fractions", [int(value[0]), *value[1:]], False, "nested_type"
