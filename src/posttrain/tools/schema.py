"""JSON Schemas of parameters: checked once when a tool is made, with one message that names the place."""

import functools
import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match
from jsonschema.protocols import Validator
from jsonschema.validators import extend, validator_for
from pydantic_core import SchemaError, SchemaValidator, core_schema
from referencing import Registry
from referencing.exceptions import Unresolvable

from posttrain.errors import ConfigError

MAX_SCHEMA_CHARS = 64_000
MAX_SCHEMA_DEPTH = 64
MAX_UNFOLDED = 10_000
_TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")
_MEANT = {
    **dict.fromkeys(("dict", "map", "hashmap"), "object"),
    **dict.fromkeys(("float", "double", "decimal"), "number"),
    **dict.fromkeys(("int", "long"), "integer"),
    **dict.fromkeys(("str", "char", "text"), "string"),
    **dict.fromkeys(("list", "tuple"), "array"),
    "bool": "boolean",
    "none": "null",
}
_EMPTY = 'without arguments: {"type": "object", "properties": {}}'
DATA_KEYWORDS = ("default", "const", "enum", "examples")  # keywords whose values are data, not schemas
_NAMED = ("properties", "$defs", "definitions", "dependentSchemas")  # keywords whose values map names to schemas


def validator_of(parameters: Mapping[str, Any]) -> Validator:
    """A validator that resolves references inside ``parameters`` only, never fetches, and matches patterns in linear time."""
    kind = _linear(validator_for(dict(parameters), default=Draft202012Validator))
    validator: Validator = kind(dict(parameters), registry=Registry(), format_checker=kind.FORMAT_CHECKER)
    return validator


@functools.lru_cache(16)
def _linear(kind: Any) -> Any:
    """The validator class with patterns matched by an engine without backtracking: a model's text cannot make it hang."""

    def matches(validator: Validator, pattern: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
        if isinstance(instance, str) and not _matcher(pattern).isinstance_python(instance):
            yield ValidationError(f"{instance[:80]!r} does not match {pattern!r}")

    extended: Any = extend  # untyped
    return extended(kind, {"pattern": matches})


@functools.lru_cache(1024)
def _matcher(pattern: str) -> SchemaValidator:
    """Raises pydantic_core.SchemaError for what has no linear-time form: look-around, back-references."""
    return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))


def is_utf8(text: str) -> bool:
    """Whether ``text`` can be written as UTF-8 (a lone surrogate cannot)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_parameters(parameters: Any, where: str) -> None:
    """Raise ConfigError unless ``parameters`` is a JSON Schema of an object that can be applied here; ``where`` opens the message."""
    if not isinstance(parameters, Mapping):
        raise ConfigError(f"{where}: parameters must be a JSON Schema, found {type(parameters).__name__}", hint=_EMPTY)
    try:
        text = json.dumps(parameters, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: parameters are not plain JSON: {error}", hint="use JSON types only") from None
    if not is_utf8(text):
        raise ConfigError(f"{where}: parameters hold characters that UTF-8 cannot write", hint="remove the lone surrogates")
    if len(text) > MAX_SCHEMA_CHARS:
        raise ConfigError(f"{where}: parameters are {len(text):,} characters of JSON", hint=f"at most {MAX_SCHEMA_CHARS:,}: split the tool")
    _check_text(text, where)


@functools.lru_cache(256)
def _check_text(text: str, where: str) -> None:
    """The checks of a schema as JSON text. The same contract is made again for every episode: a text that passed is not checked twice."""
    schema = json.loads(text)
    for place, node in _nodes(schema, "parameters", 0, where):
        _check_node(node, place, where)
    if schema.get("type") != "object":
        raise ConfigError(f"{where}: parameters.type is {schema.get('type')!r}, but the arguments of a call are an object", hint=_EMPTY)
    kind: Any = validator_for(schema, default=Draft202012Validator)
    problem = best_match(Draft202012Validator(kind.META_SCHEMA).iter_errors(schema))
    if problem is not None:
        place = ".".join(["parameters", *map(str, problem.absolute_path)])
        raise ConfigError(f"{where}: {place}: {problem.message[:300]}", hint="write it as JSON Schema 2020-12 has it")
    try:
        unfolded: float = _unfolded(schema, schema, {})
    except RecursionError:  # a chain of a thousand references
        unfolded = float("inf")
    if unfolded > MAX_UNFOLDED:
        raise ConfigError(f"{where}: parameters are {unfolded:.3g} schemas with each $ref written out", hint=f"at most {MAX_UNFOLDED:,}")
    _check_references(schema, where)


def referred(node: Mapping[str, Any], root: Any) -> Any:
    """The part of ``root`` that the ``$ref`` of ``node`` names (``#/$defs/Name``, or ``#name`` of an ``$anchor``), or None."""
    reference = str(node.get("$ref", ""))
    if not reference.startswith("#"):
        return None
    if reference[1:2] not in ("", "/"):
        return next((one for _, one in _nodes(root, "", 0, "") if one.get("$anchor") == reference[1:]), None)
    found = root
    for part in reference.split("/")[1:]:
        found = found.get(unquote(part).replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
    return found


def _unfolded(node: Any, root: Any, sizes: dict[int, int]) -> int:
    """How many schemas there are with every ``$ref`` written out, one back into itself not: short text can stand for millions."""
    if isinstance(node, list):
        return sum(_unfolded(item, root, sizes) for item in node)
    if not isinstance(node, dict):
        return 0
    if id(node) not in sizes:
        sizes[id(node)] = 1
        parts = [value for key, value in node.items() if key not in (*DATA_KEYWORDS, *_NAMED)]
        parts += [item for key in ("properties", "dependentSchemas") if isinstance(node.get(key), dict) for item in node[key].values()]
        sizes[id(node)] = 1 + sum(_unfolded(part, root, sizes) for part in [*parts, referred(node, root)])
    return sizes[id(node)]


def _nodes(schema: Any, place: str, depth: int, where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every schema inside a schema with its place: ``parameters.properties.amount``."""
    if depth > MAX_SCHEMA_DEPTH:
        raise ConfigError(f"{where}: {place} is nested more than {MAX_SCHEMA_DEPTH} deep", hint="flatten the parameters")
    if isinstance(schema, list):
        for index, item in enumerate(schema):
            yield from _nodes(item, f"{place}.{index}", depth + 1, where)
    elif isinstance(schema, dict):
        yield place, schema
        for key, value in schema.items():
            if key in DATA_KEYWORDS:
                continue
            if key in _NAMED and isinstance(value, dict):
                for name, item in value.items():
                    yield from _nodes(item, f"{place}.{key}.{name}", depth + 1, where)
            elif isinstance(value, (dict, list)):
                yield from _nodes(value, f"{place}.{key}", depth + 1, where)


def _check_node(node: Mapping[str, Any], place: str, where: str) -> None:
    """What the metaschema does not say, or says in words that help nobody."""
    kinds = node.get("type", [])
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if kind not in _TYPES:
            hint = f"did you mean '{_MEANT[str(kind).lower()]}'?" if str(kind).lower() in _MEANT else "known: " + ", ".join(_TYPES)
            raise ConfigError(f"{where}: {place}.type is {kind!r}, which is no JSON Schema type", hint=hint)
    reference = node.get("$ref", "#")
    if not isinstance(reference, str) or not reference.startswith("#"):
        raise ConfigError(
            f"{where}: {place}.$ref is {reference!r}: nothing is fetched", hint="refer to a part of the same schema: #/$defs/Name"
        )
    if "patternProperties" in node:
        raise ConfigError(f"{where}: {place}.patternProperties is not supported", hint="name the properties, or use propertyNames")
    for key in ("$dynamicRef", "$recursiveRef"):
        if key in node:
            raise ConfigError(f"{where}: {place}.{key} is not supported", hint="use $ref: #/$defs/Name")
    if not isinstance(node.get("$schema", ""), str):
        raise ConfigError(f"{where}: {place}.$schema is {node['$schema']!r:.80}, not a URI", hint="leave it out: it is then 2020-12")
    if "pattern" in node:
        try:
            _matcher(node["pattern"])
        except (SchemaError, TypeError) as error:
            said = str(error).strip().splitlines()[-1].strip()
            raise ConfigError(
                f"{where}: {place}.pattern {str(node['pattern'])[:80]!r} cannot be used: {said}",
                hint="write it without look-around and back-references",
            ) from None
    required, properties = node.get("required"), node.get("properties", {})
    if isinstance(required, list) and isinstance(properties, Mapping) and not {"$ref", "allOf", "anyOf", "oneOf"} & set(node):
        unknown = [name for name in required if name not in properties]
        if unknown:
            raise ConfigError(f"{where}: {place}.required names {unknown[0]!r}, which is not among properties", hint="describe it there")


def _check_references(schema: Mapping[str, Any], where: str) -> None:
    """Every ``$ref`` leads somewhere, and not back to itself without consuming anything."""
    validator = validator_of(schema)
    for place, node in _nodes(schema, "parameters", 0, where):
        if "$ref" not in node:
            continue
        try:
            for _ in validator.evolve(schema=node).iter_errors(None):
                break
        except Unresolvable as error:
            raise ConfigError(
                f"{where}: {place}.$ref {error.ref!r} leads nowhere", hint="refer to a part of the same schema: #/$defs/Name"
            ) from None
        except RecursionError:
            raise ConfigError(f"{where}: {place}.$ref leads back to itself", hint="a $ref must come to an end") from None
