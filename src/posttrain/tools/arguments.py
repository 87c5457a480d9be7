"""Arguments of a call against the parameters of a tool: what is wrong, in sentences a model can act on."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from jsonschema.exceptions import ValidationError

from posttrain.errors import suggest
from posttrain.tools.failures import InvalidArguments
from posttrain.tools.schema import referred, validator_of

MAX_PROBLEMS = 8
HIDDEN = "(hidden)"
_ALTERNATIVES = ("anyOf", "oneOf", "allOf")
_BOUNDS = {
    "minimum": ">= {}",
    "exclusiveMinimum": "> {}",
    "maximum": "<= {}",
    "exclusiveMaximum": "< {}",
    "multipleOf": "a multiple of {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "pattern": "matching {}",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
}


MAX_DEPTH = 100
"""Objects and lists inside each other in arguments."""


def plain_json(arguments: Any) -> dict[str, Any]:
    """A fresh copy of ``arguments`` as plain JSON; InvalidArguments when it is not an object of JSON values."""
    if not isinstance(arguments, Mapping):
        raise InvalidArguments([f"the arguments are {_short(arguments)}; expected an object"])
    try:
        copy = json.loads(json.dumps(dict(arguments), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InvalidArguments([f"the arguments are not JSON: {error}"]) from None
    except RecursionError:
        raise InvalidArguments(["the arguments are nested too deep"]) from None
    level: list[Any] = [copy]
    for _ in range(MAX_DEPTH):
        level = [child for one in level if isinstance(one, dict | list) for child in (one.values() if isinstance(one, dict) else one)]
    if level:
        raise InvalidArguments(["the arguments are nested too deep"])
    return dict(copy)


def check_arguments(parameters: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Raise InvalidArguments with a sentence for each argument that does not fit ``parameters``, at most :data:`MAX_PROBLEMS`."""
    try:
        errors = sorted(validator_of(parameters).iter_errors(arguments), key=lambda error: [str(part) for part in error.absolute_path])
    except RecursionError:
        raise InvalidArguments(["the arguments are nested too deep"]) from None
    problems = list(dict.fromkeys(sentence for error in errors for sentence in _sentences(error, parameters)))
    if problems:
        more = len(problems) - MAX_PROBLEMS
        raise InvalidArguments(problems[:MAX_PROBLEMS] + ([f"and {more} more"] if more > 0 else []))


def describe(schema: Any) -> str:
    """What a schema accepts, in a few words: ``integer >= 1``, ``one of "EUR", "USD"``."""
    if not isinstance(schema, Mapping):
        return "nothing" if schema is False else "any value"
    if "const" in schema:
        return _short(schema["const"])
    if isinstance(schema.get("enum"), list):
        return "one of " + ", ".join(_short(value) for value in schema["enum"][:20]) + (" ..." if len(schema["enum"]) > 20 else "")
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            return " or ".join(dict.fromkeys(describe(option) for option in schema[key][:6]))
    kinds = schema.get("type", "value")
    words = [" or ".join(kinds) if isinstance(kinds, list) else str(kinds)]
    if schema.get("format"):
        words.append(f"({schema['format']})")
    if words[0] == "array" and isinstance(schema.get("items"), Mapping):
        words.append(f"of {describe(schema['items'])}")
    words += [text.format(schema[key]) for key, text in _BOUNDS.items() if key in schema]
    return " ".join(words)


def hide_secrets(schema: Any, value: Any) -> Any:
    """``value`` with what ``schema`` calls secret (``format: password`` or ``writeOnly``), at any depth, replaced by ``(hidden)``."""
    return _hidden([schema], value, schema)


def _hidden(schemas: Iterable[Any], value: Any, root: Any) -> Any:
    applied = _applied(schemas, root)
    if any(one.get("format") == "password" or one.get("writeOnly") is True for one in applied):
        return HIDDEN
    if isinstance(value, dict):
        return {
            name: _hidden([one.get("properties", {}).get(name, one.get("additionalProperties")) for one in applied], item, root)
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [_hidden([one.get("items") for one in applied], item, root) for item in value]
    return value


def _applied(schemas: Iterable[Any], root: Any) -> list[Mapping[str, Any]]:
    """The schemas, what their ``$ref`` name, and their alternatives, each once: all that may say something of one value."""
    found: dict[int, Mapping[str, Any]] = {}
    waiting = [*schemas]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Mapping) and id(one) not in found:
            found[id(one)] = one
            waiting += [referred(one, root), *(option for key in _ALTERNATIVES for option in one.get(key, ()))]
    return list(found.values())


def _sentences(error: ValidationError, root: Any) -> list[str]:
    where, instance, schema = _path(error), error.instance, error.schema
    properties: Mapping[str, Any] = schema.get("properties", {}) if isinstance(schema, Mapping) else {}
    if error.validator == "required" and isinstance(instance, Mapping):
        required: Any = error.validator_value
        missing = [name for name in required if name not in instance]
        return [f"{_join(where, name)} is missing; expected {describe(properties.get(name, {}))}" for name in missing]
    if error.validator == "additionalProperties" and isinstance(instance, Mapping) and error.validator_value is False:
        extra = [name for name in instance if name not in properties]
        return [f"{_join(where, name)[:80]} is not an argument; {suggest(name, properties)}" for name in extra]
    if error.validator in ("anyOf", "oneOf"):
        inner = _of_the_meant_option(error, root)
        if inner:
            return inner
    shown = _hidden([schema], instance, root)
    said = f"{where} is {HIDDEN if shown == HIDDEN else _short(shown)}; expected {describe(schema)}"
    if error.validator == "enum" and isinstance(instance, str):
        choices: Any = error.validator_value
        near = suggest(instance[:80], [choice for choice in choices if isinstance(choice, str)])
        return [f"{said}; {near}" if near.startswith("did") else said]
    return [said]


def _of_the_meant_option(error: ValidationError, root: Any) -> list[str]:
    """Where the value has the type of one alternative only, what that alternative says; else nothing."""
    options: dict[Any, list[ValidationError]] = {}
    for problem in error.context or ():
        options.setdefault(problem.relative_schema_path[0], []).append(problem)
    meant = [
        problems
        for problems in options.values()
        if not any(problem.validator in ("type", "const", "enum") and not problem.relative_path for problem in problems)
    ]
    return [sentence for problem in meant[0] for sentence in _sentences(problem, root)] if len(meant) == 1 else []


def _path(error: ValidationError) -> str:
    return ".".join(str(part)[:60] for part in error.absolute_path) or "the arguments object"


def _join(where: str, name: str) -> str:
    return name if where == "the arguments object" else f"{where}.{name}"


def _short(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text):,} characters)"
