"""The files of the Berkeley Function Calling Leaderboard as they are: questions, function signatures, possible answers.

JSON Lines under the name ``.json``; the answers lie in ``possible_answer/`` beside the questions, under the same name. Signatures become
JSON Schema: ``dict`` is ``object``, ``float`` is ``number``, ``tuple`` is ``array``, ``any`` has no type, at every depth; the key
``optional``, which JSON Schema does not have, is left out.

Names of functions may hold dots (``math.factorial``). They are kept, or with ``dots="underscore"`` written ``math_factorial``, in
signatures and answers alike: BFCL's own rule for models whose interface takes ``^[a-zA-Z0-9_-]{1,64}$`` only (OpenAI, Mistral, Google
and others).

Patil et al. 2025, https://github.com/ShishirPatil/gorilla, berkeley-function-call-leaderboard, Apache-2.0.
"""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from posttrain.data.sources import BadRow, open_source
from posttrain.errors import DataError
from posttrain.records import Message, ToolCall

Signature = Mapping[str, Any]
NeededCall = Mapping[str, Mapping[str, Sequence[Any]]]
Dots = Literal["keep", "underscore"]

TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": ""}
"""BFCL's type words that JSON Schema writes otherwise; "" is no type."""
JSON_TYPES = ("string", "integer", "number", "boolean", "array", "object", "null")
NO_CALL = ("irrelevance", "live_irrelevance")
ANY_CALL = ("relevance", "live_relevance")
DOCUMENTS = {
    "GorillaFileSystem": "gorilla_file_system",
    "MathAPI": "math_api",
    "MessageAPI": "message_api",
    "TicketAPI": "ticket_api",
    "TradingBot": "trading_bot",
    "TravelAPI": "travel_booking",
    "TwitterAPI": "posting_api",
    "VehicleControlAPI": "vehicle_control",
}
"""File in ``multi_turn_func_doc`` of each class of the multi-turn categories."""

# The forms of rows, in JSON Schema: what a file must be for the code below to read it.
_TEXTS = {"type": "array", "items": {"type": "string"}}
_PARAMETERS = {
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "properties": {"type": "object", "additionalProperties": {"$ref": "#/$defs/parameters"}},
        "items": {"$ref": "#/$defs/parameters"},
        "required": _TEXTS,
        "enum": {"type": "array", "minItems": 1},
        "minItems": {"type": "integer"},
    },
}
_FUNCTION = {
    "type": "object",
    "required": ["name", "parameters"],
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "description": {"type": "string"},
        "parameters": {"$ref": "#/$defs/parameters"},
    },
    "$defs": {"parameters": _PARAMETERS},
}
_TURN = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["role", "content"],
        "properties": {"role": {"type": "string"}, "content": {"type": "string"}},
    },
}
_QUESTION = {
    "type": "object",
    "required": ["id", "question"],
    "properties": {
        "id": {"type": "string"},
        "question": {"type": "array", "minItems": 1, "items": _TURN},
        "function": {"type": "array", "items": _FUNCTION},
        "involved_classes": {"type": "array", "items": {"enum": [*DOCUMENTS]}},
        "excluded_function": _TEXTS,
    },
    "$defs": {"parameters": _PARAMETERS},
}
_CALL = {
    "type": "object",
    "minProperties": 1,
    "maxProperties": 1,
    "additionalProperties": {"type": "object", "additionalProperties": {"type": "array"}},
}
_ANSWER = {
    "type": "object",
    "required": ["id", "ground_truth"],
    "properties": {"id": {"type": "string"}, "ground_truth": {"type": "array", "items": {"anyOf": [_CALL, _TEXTS]}}},
}


@dataclass(frozen=True, slots=True)
class BfclRow:
    """One test. ``turns``: the messages of each user turn (one but in the multi-turn categories).

    ``needed``: the calls that the one turn needs, ``{name: {argument: [accepted values]}}`` each; empty where none is; None where any
    call will do (relevance) and in the multi-turn categories, whose calls, a tuple for each turn, are in ``turn_calls``.
    """

    id: str
    category: str
    turns: tuple[tuple[Message, ...], ...]
    tools: tuple[Signature, ...]
    needed: tuple[NeededCall, ...] | None = None
    turn_calls: tuple[tuple[ToolCall, ...], ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def messages(self) -> tuple[Message, ...]:
        """The first turn's messages: all there are, but in the multi-turn categories."""
        return self.turns[0]

    @property
    def question(self) -> str:
        """What the users of all turns say."""
        return "\n".join(message.content for turn in self.turns for message in turn if message.role == "user")

    @property
    def answerable(self) -> bool:
        """Whether the published answers can be given at all: a few rows accept no value for a required argument, or name an unknown one."""
        return all(_can_be_given(one, self.tools) for one in self.needed or ())

    @property
    def expected(self) -> dict[str, Any]:
        """What a suite case expects: ``{"calls": [...]}``, ``"any"`` where any call will do."""
        return {"calls": "any" if self.needed is None else [dict(one) for one in self.needed]}


def read_bfcl(path: str | Path, *, answers: str | Path | None = None, dots: Dots = "keep") -> list[BfclRow]:
    """All rows of one category's file, in order; ``answers`` is by default ``possible_answer/<the same name>``.

    Where a file is not there but one with ``.gz`` is, that is read. Raises DataError naming file, line, field and fix.
    """
    file = _packed(Path(path))
    truth = _packed(Path(answers) if answers else file.parent / "possible_answer" / file.name)
    given = {row["id"]: row["ground_truth"] for _, row in _rows(truth, _ANSWER)} if answers or truth.exists() else {}
    found = []
    for line, row in _rows(file, _QUESTION):
        where = f"{file}:{line}"
        category = row["id"].rpartition("_")[0]
        if category not in (*NO_CALL, *ANY_CALL) and row["id"] not in given:
            raise DataError(f"{where}: row '{row['id']}' has no possible answer in {truth}", hint="fetch the file of the same version")
        found.append(_row(row, category, given.get(row["id"], ()), dots, where, file.parent))
    return found


def _packed(path: Path) -> Path:
    packed = path.with_name(path.name + ".gz")
    return packed if packed.exists() and not path.exists() else path


def _rows(path: Path, form: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Lines and rows of a file; raises at the first row that has another form."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    validator = Draft202012Validator(form)
    for line, row in open_source(path).rows():
        if isinstance(row, BadRow):
            raise DataError(f"{path}:{line}: {row.problem}: {row.raw[:60]!r}", hint=row.fix)
        wrong = best_match(validator.iter_errors(row))
        if wrong is not None:
            hint = "give BFCL's own file, BFCL_v4_<category>.json, with possible_answer/ beside it"
            raise DataError(f"{path}:{line}: {wrong.json_path}: {wrong.message:.160}", hint=hint)
        yield line, row


def _row(row: dict[str, Any], category: str, truth: Sequence[Any], dots: Dots, where: str, folder: Path) -> BfclRow:
    several = "multi_turn" in category
    if any(isinstance(one, Mapping) == several for one in truth):
        raise DataError(f"{where}: the answers to row '{row['id']}' are those of another category", hint="fetch the file of the same name")
    turns = tuple(tuple(Message(one["role"], one["content"]) for one in turn) for turn in row["question"])
    functions = _documented(row, folder) if several else row.get("function", ())
    tools = tuple(signature(one, dots=dots, where=where) for one in functions)
    rest = {name: value for name, value in row.items() if name not in ("id", "question", "function")}
    if several:
        return BfclRow(row["id"], category, turns, tools, None, _turn_calls(truth, tools, where), rest)
    if category in ANY_CALL:
        return BfclRow(row["id"], category, turns, tools, None, (), rest)
    needed = () if category in NO_CALL else tuple({function_name(name, dots): one[name] for name in one} for one in truth)
    return BfclRow(row["id"], category, turns, tools, needed, (), rest)


def function_name(name: str, dots: Dots) -> str:
    """A function's name as the model reads and writes it."""
    return name.replace(".", "_") if dots == "underscore" else name


def signature(function: Mapping[str, Any], *, dots: Dots = "keep", where: str = "function") -> Signature:
    """A function of BFCL as ``{"type": "function", "function": {...}}`` with parameters in JSON Schema."""
    name = function_name(function["name"], dots)
    parameters = _schema(function["parameters"], f"{where}: function '{name}'")
    return {"type": "function", "function": {"name": name, "description": function.get("description", ""), "parameters": parameters}}


def _schema(schema: Mapping[str, Any], where: str) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "type":
            kind = TYPES.get(value, value)
            if kind and kind not in JSON_TYPES:
                raise DataError(f"{where}: type '{value}' is not one of the Python categories", hint="Java and JavaScript are not read")
            if kind:
                result["type"] = kind
        elif key == "properties":
            result[key] = {name: _schema(inner, f"{where}.{name}") for name, inner in value.items()}
        elif key in ("items", "additionalProperties") and isinstance(value, Mapping):
            result[key] = _schema(value, where)
        elif key != "optional":
            result[key] = value
    return result


# ---- answers --------------------------------------------------------------------------------------------------------------


def right_calls(row: BfclRow) -> tuple[ToolCall, ...]:
    """A right answer built from the possible answers.

    Of the accepted values, one that the question holds word for word, else the first. An argument that may be left out is given only
    when the question holds its value, or the signature requires it. Right only where the row is ``answerable``.
    """
    parameters = {one["function"]["name"]: one["function"]["parameters"] for one in row.tools}
    calls = []
    for needed in row.needed or ():
        name, accepted = next(iter(needed.items()))
        schema = parameters[name]
        properties = schema.get("properties", {})
        arguments = {}
        for argument in [one for one in accepted if one in properties]:
            values = accepted[argument]
            stated = [one for one in values if one != "" and _stated(one, row.question)]
            usual = [one for one in values if one != ""]
            if usual and (stated or "" not in values or argument in schema.get("required", ())):
                arguments[argument] = _plain((stated or usual)[0], properties[argument], row.question)
        calls.append(ToolCall(name, arguments))
    return tuple(calls)


def _can_be_given(needed: NeededCall, tools: Sequence[Signature]) -> bool:
    name, accepted = next(iter(needed.items()))
    schema = next((one["function"]["parameters"] for one in tools if one["function"]["name"] == name), None)
    if schema is None:
        return False
    obliged = [one for one, values in accepted.items() if "" not in values]
    return all(
        one in schema.get("properties", {}) and any(value != "" for value in accepted.get(one, ()))
        for one in (*obliged, *schema.get("required", ()))
    )


def _stated(value: Any, question: str) -> bool:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return False
    return re.search(rf"(?<!\w){re.escape(str(value))}(?!\w)", question, re.IGNORECASE) is not None


def _plain(value: Any, schema: Mapping[str, Any], question: str) -> Any:
    """An accepted value without its alternatives: objects hold a list of accepted values a key; ``5.0`` is 5 where the question says 5."""
    if schema.get("type") == "number" and isinstance(value, float) and value.is_integer() and _stated(int(value), question):
        return int(value)
    if schema.get("type") == "object" and isinstance(value, Mapping):
        return {key: next(one for one in choices if one != "") for key, choices in value.items() if any(one != "" for one in choices)}
    if schema.get("type") == "array" and isinstance(value, list) and schema.get("items", {}).get("type") == "object":
        return [_plain(one, schema["items"], question) for one in value]
    return value


# ---- several turns --------------------------------------------------------------------------------------------------------


def _documented(row: Mapping[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Functions of a multi-turn row: those of its classes, without the excluded ones."""
    files = [_packed(folder / "multi_turn_func_doc" / f"{DOCUMENTS[name]}.json") for name in row.get("involved_classes", ())]
    return [one for file in files for _, one in _rows(file, _FUNCTION) if one["name"] not in row.get("excluded_function", ())]


def _turn_calls(truth: Any, tools: Sequence[Signature], where: str) -> tuple[tuple[ToolCall, ...], ...]:
    parameters = {one["function"]["name"]: list(one["function"]["parameters"].get("properties", {})) for one in tools}
    return tuple(tuple(_python_call(text, parameters, where) for text in turn) for turn in truth)


def _python_call(text: str, parameters: Mapping[str, Sequence[str]], where: str) -> ToolCall:
    """``grep('a.txt', pattern='b')`` as a call; arguments by position take the signature's names in order."""
    try:
        call = ast.parse(text, mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError("it is no call")
        named = dict(zip(parameters[call.func.id], (ast.literal_eval(one) for one in call.args), strict=False))
        return ToolCall(call.func.id, named | {str(one.arg): ast.literal_eval(one.value) for one in call.keywords})
    except (SyntaxError, ValueError, KeyError) as error:
        raise DataError(f"{where}: the answer {text[:80]!r} cannot be read as a call: {error}", hint="name(argument=value, ...)") from None
