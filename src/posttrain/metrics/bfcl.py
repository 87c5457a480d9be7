"""Is a tool call the one that was needed? The AST rules of the Berkeley Function Calling Leaderboard, on parsed calls.

The rules follow Patil et al. 2025 (ICML, "The Berkeley Function Calling Leaderboard"), evaluation of category Python, version 4
(https://github.com/ShishirPatil/gorilla, commit 6ea5797). A needed call is ``{name: {argument: [accepted values]}}``; ``""`` among the
accepted values lets the argument be left out.

* The function's name is the needed one; required arguments are there; no argument is given that the answer does not name; those
  whose accepted values lack ``""`` are given.
* Types are exact: ``true`` is no integer, ``5.0`` no integer. A whole number passes for a number, but not inside a list. A value of
  the first accepted value's type passes whatever the signature says (there, the answer's author meant a variable).
* Texts are equal without blanks, ``,./-_*^`` and case, and ``'`` is ``"``; in lists and one level down in objects too.
* Objects: each value is among the accepted ones of its key, keys whose accepted values lack ``""`` are there. Lists of objects: the same
  number, in order. Lists: equal, in order.
* Several calls: the same number, in any order; each needed call, in turn, takes the first call left that fits.

Two things differ. Where the original breaks on accepted values of another form, the verdict here is "no". And the type words are JSON
Schema's: ``number`` is its ``float``, ``object`` its ``dict``, no type (or several) its ``any``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from posttrain.errors import DataError, suggest

Needed = Mapping[str, Mapping[str, Sequence[Any]]]
"""One needed call: ``{name: {argument: [accepted values]}}``."""
ErrorType = Literal[
    "",
    "wrong_count",
    "no_match",
    "wrong_function",
    "missing_required",
    "missing_argument",
    "unexpected_argument",
    "type",
    "nested_type",
    "string",
    "list",
    "dict_key",
    "dict_value",
    "dict_unclear",
    "list_length",
    "value",
]
LEFT_OUT = ""  # among accepted values: the argument may be left out
ANY_VALUE: Mapping[str, Any] = {"$any": True}
"""Among accepted values: any value of the right type does. BFCL has no such thing; tasks with an argument in free words need it."""
TYPES: Mapping[str, type] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "array": list,
    "object": dict,
    "null": type(None),
}
_IGNORED = str.maketrans({**dict.fromkeys(" ,./-_*^"), "'": '"'})


class Call(Protocol):
    """A call that was made: ``records.ToolCall`` and ``records.CallRecord`` are such."""

    @property
    def name(self) -> str:
        """The function's name."""

    @property
    def arguments(self) -> Mapping[str, Any]:
        """Its arguments, parsed."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """``valid``, or the first thing that is wrong: its ``error_type`` and one sentence."""

    valid: bool
    error_type: ErrorType = ""
    message: str = ""


RIGHT = Verdict(True)


def check_calls(calls: Sequence[Call], needed: Sequence[Needed], signatures: Sequence[Mapping[str, Any]]) -> Verdict:
    """The verdict on a whole answer: the needed calls, no more and no fewer, in any order.

    ``signatures`` are those offered (``{"type": "function", "function": {...}}``). Raises DataError when they lack a needed function.
    """
    offered = {function_of(one)["name"]: one for one in signatures}
    if len(calls) != len(needed):
        return Verdict(False, "wrong_count", f"{len(calls)} calls, needed {len(needed)}")
    if len(needed) == 1:
        return check_call(calls[0], needed[0], _signature(needed[0], offered))
    left = list(calls)
    for one in needed:
        signature = _signature(one, offered)
        place = next((i for i, call in enumerate(left) if check_call(call, one, signature).valid), None)
        if place is None:
            return Verdict(False, "no_match", f"no call is the needed call of '{next(iter(one))}'")
        left.pop(place)
    return RIGHT


def check_call(call: Call, needed: Needed, signature: Mapping[str, Any]) -> Verdict:
    """The verdict on one call against one needed call and the signature of its function."""
    name, accepted = needed_parts(needed)
    if call.name != name:
        return Verdict(False, "wrong_function", f"'{call.name}' was called, needed '{name}'")
    properties = properties_of(signature)
    for argument in function_of(signature).get("parameters", {}).get("required", ()):
        if argument not in call.arguments:
            return Verdict(False, "missing_required", f"required argument '{argument}' is missing")
    for argument, value in call.arguments.items():
        if argument not in properties or argument not in accepted:
            return Verdict(False, "unexpected_argument", f"argument '{argument}' is not called for")
        verdict = check_argument(argument, value, accepted[argument], properties[argument])
        if not verdict.valid:
            return verdict
    for argument, values in accepted.items():
        if argument not in call.arguments and LEFT_OUT not in values:
            return Verdict(False, "missing_argument", f"argument '{argument}' is missing")
    return RIGHT


def check_argument(name: str, value: Any, accepted: Sequence[Any], schema: Mapping[str, Any]) -> Verdict:
    """The verdict on one argument: its type under ``schema``, then its value."""
    expected = _python_type(schema)
    items = _python_type(schema.get("items")) if expected is list else None
    if expected is float and type(value) is int and abs(value) < 2**1023:
        value = float(value)
    if ANY_VALUE in accepted and type(value) is expected:
        return RIGHT
    problem, is_variable = _type_problem(value, accepted, expected, items)
    if not problem:
        problem = _among(value, accepted) if is_variable else _value_problem(value, accepted, expected, items)
    shown = f"{value!r}"[:80]
    return Verdict(False, problem, f"argument '{name}': {shown} is not accepted ({problem})") if problem else RIGHT


def function_of(signature: Mapping[str, Any]) -> Mapping[str, Any]:
    """The ``function`` part of a signature; a bare one is its own. Raises DataError where it is none."""
    function = signature.get("function", signature) if isinstance(signature, Mapping) else signature
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        hint = 'it is {"type": "function", "function": {"name": ...}}'
        raise DataError(f"a signature has no function name: {signature!r:.80}", hint=hint)
    parameters = function.get("parameters", {})
    required = parameters.get("required", []) if isinstance(parameters, Mapping) else None
    if not isinstance(required, list | tuple) or not all(isinstance(one, str) for one in required):
        raise DataError(f"the parameters of '{function['name']}' are no JSON Schema: {parameters!r:.80}", hint="mend the signature")
    return function


def properties_of(signature: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """The schemas of a function's parameters by name. Raises DataError where they are none."""
    properties = function_of(signature).get("parameters", {}).get("properties", {})
    if not isinstance(properties, Mapping) or not all(isinstance(one, Mapping) for one in properties.values()):
        name = function_of(signature)["name"]
        raise DataError(f"the parameters of '{name}' are no JSON Schema: {properties!r:.80}", hint="mend the signature")
    return properties


def needed_parts(needed: Needed) -> tuple[str, Mapping[str, Sequence[Any]]]:
    """Name and accepted values of a needed call. Raises DataError when it has another form."""
    if isinstance(needed, Mapping) and len(needed) == 1:
        name, accepted = next(iter(needed.items()))
        if isinstance(accepted, Mapping) and all(
            isinstance(values, Sequence) and not isinstance(values, str) for values in accepted.values()
        ):
            return name, accepted
    raise DataError(f"a needed call has another form: {needed!r:.80}", hint="write {name: {argument: [accepted values]}}")


def _signature(needed: Needed, offered: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    name, _ = needed_parts(needed)
    if name not in offered:
        raise DataError(f"the needed function '{name}' is not among those offered", hint=suggest(name, offered))
    return offered[name]


def _python_type(schema: Any) -> type:
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    return TYPES.get(kind, str) if isinstance(kind, str) else str


def _type_problem(value: Any, accepted: Sequence[Any], expected: type, items: type | None) -> tuple[ErrorType, bool]:
    """(what is wrong with the type, whether the value is taken for a variable, to be compared as it is)."""
    usual = _first_type(accepted)
    if type(value) is not expected:
        return ("", True) if usual is type(value) else ("type", False)
    if isinstance(value, list) and items is not None and not any(_items_fit(value, one, items) for one in accepted):
        return "nested_type" if usual is list else "type", False
    return "", usual not in (None, expected)


def _first_type(accepted: Sequence[Any]) -> type | None:
    return next((type(one) for one in accepted if one != LEFT_OUT), None)


def _items_fit(values: Sequence[Any], accepted: Any, items: type) -> bool:
    return not isinstance(accepted, list) or all(type(one) in (items, _first_type(accepted)) for one in values)


def _value_problem(value: Any, accepted: Sequence[Any], expected: type, items: type | None) -> ErrorType:
    if expected is dict:
        return _object_problem(value, accepted)
    if expected is list and items is dict:
        return _objects_problem(value, accepted)
    if expected is str:
        return "" if normal(value) in [normal(one) for one in accepted if isinstance(one, str)] else "string"
    if expected is list:
        return "" if _all_normal(value) in [_all_normal(one) for one in accepted if isinstance(one, list | str)] else "list"
    return _among(value, accepted)


def _among(value: Any, accepted: Sequence[Any]) -> ErrorType:
    return "" if value in accepted else "value"


def normal(value: Any) -> Any:
    """A text without blanks, ``,./-_*^`` and case, ``'`` as ``"``; any other value as it is."""
    return value.translate(_IGNORED).lower() if isinstance(value, str) else value


def _all_normal(values: Sequence[Any]) -> list[Any]:
    return [normal(one) for one in values]


def _object_problem(value: Mapping[str, Any], accepted: Sequence[Any]) -> ErrorType:
    problem: ErrorType = "dict_unclear"
    for one in accepted:
        if one == LEFT_OUT:
            continue
        problem = _one_object_problem(value, one)
        if not problem:
            break
    return problem


def _one_object_problem(value: Any, accepted: Any) -> ErrorType:
    if not isinstance(value, Mapping) or not isinstance(accepted, Mapping):
        return "dict_value"
    choices = {key: some if isinstance(some, list | str) else [] for key, some in accepted.items()}
    if any(key not in value and LEFT_OUT not in some for key, some in choices.items()):
        return "dict_key"
    for key, inner in value.items():
        if key not in choices:
            return "dict_key"
        if normal(inner) not in _all_normal(choices[key]):
            return "dict_value"
    return ""


def _objects_problem(value: Sequence[Any], accepted: Sequence[Any]) -> ErrorType:
    problem: ErrorType = "dict_unclear"
    for one in accepted:
        if not isinstance(one, list | str) or len(one) != len(value):
            problem = "list_length"
            continue
        found = (_object_problem(inner, [wanted]) for inner, wanted in zip(value, one, strict=True))
        problem = next((some for some in found if some), "")
        if not problem:
            break
    return problem
