"""Which JSON Schemas can be enforced exactly, checked before anything is generated: what cannot be is refused by name, never dropped."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema
from jsonschema.validators import validator_for

from posttrain.errors import ConfigError, suggest

TYPES = ("string", "integer", "number", "boolean", "null", "array", "object")
_VALUES = ("type", "enum", "const", "anyOf", "allOf", "oneOf", "$ref", "$defs", "definitions", "$id", "$anchor", "$schema")
_OBJECTS = ("properties", "required", "additionalProperties", "patternProperties", "minProperties", "maxProperties")
_ARRAYS = ("items", "prefixItems", "additionalItems", "minItems", "maxItems")
_STRINGS = ("minLength", "maxLength", "pattern", "format")
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
ENFORCED = frozenset((*_VALUES, *_OBJECTS, *_ARRAYS, *_STRINGS, *_NUMBERS))
_REMARKS = ("title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly", "$comment")
NOTES = frozenset((*_REMARKS, "contentEncoding", "contentMediaType", "contentSchema", "nullable"))
"""Keywords that say nothing about validity. ``nullable`` (OpenAPI) only widens what is accepted elsewhere."""
_CONDITIONS = ("not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies", "propertyNames")
_COLLECTIONS = ("contains", "minContains", "maxContains", "uniqueItems", "unevaluatedItems", "unevaluatedProperties")
NOT_ENFORCED = frozenset((*_CONDITIONS, *_COLLECTIONS, "$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor", "$vocabulary"))
_ONE = frozenset(("items", "additionalProperties", "additionalItems"))
_SEVERAL = frozenset(("anyOf", "allOf", "oneOf", "prefixItems", "items"))
_NAMED = frozenset(("properties", "patternProperties", "$defs", "definitions"))


def check_schema(schema: Any, *, where: str) -> dict[str, Any]:
    """The schema as plain JSON. Raises ConfigError, with the place and the keyword, for one that is invalid or cannot be enforced."""
    if not isinstance(schema, Mapping):
        raise ConfigError(f"{where}: a JSON Schema is an object, not {type(schema).__name__}", hint='for example {"type": "object"}')
    try:
        plain: dict[str, Any] = json.loads(json.dumps(schema, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: the schema is no JSON: {error}", hint="use JSON types only") from None
    for place, part in _parts(plain, "$"):
        _check_keywords(part, f"{where}: {place}")
    try:
        validator_for(plain, default=jsonschema.Draft202012Validator).check_schema(plain)
    except jsonschema.SchemaError as error:
        raise ConfigError(f"{where}: {error.json_path}: {error.message}", hint="the schema is invalid under its own draft") from None
    return plain


def _parts(schema: Any, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every subschema with its place, the whole one first."""
    if not isinstance(schema, dict):
        return
    yield place, schema
    for key, value in schema.items():
        if key in _NAMED and isinstance(value, dict):
            for name, part in value.items():
                yield from _parts(part, f"{place}.{key}.{name}")
        elif key in _SEVERAL and isinstance(value, list):
            for i, part in enumerate(value):
                yield from _parts(part, f"{place}.{key}[{i}]")
        elif key in _ONE:
            yield from _parts(value, f"{place}.{key}")


def _check_keywords(part: Mapping[str, Any], where: str) -> None:
    for key in part:
        if key not in ENFORCED and key not in NOTES and not key.startswith("x-"):
            hint = "leave it out, and check it on the finished answer" if key in NOT_ENFORCED else suggest(key, ENFORCED)
            raise ConfigError(f"{where}: keyword '{key}' is not supported", hint=hint)
    if "x-guidance" in part:
        raise ConfigError(f"{where}: keyword 'x-guidance' is not supported", hint="leave it out")
    types = part.get("type", [])
    for name in [types] if isinstance(types, str) else types:
        if name not in TYPES:
            raise ConfigError(f"{where}: type {name!r} is unknown", hint="types are " + ", ".join(TYPES))
    most = part.get("minProperties", 0)
    is_open = part.get("additionalProperties", True) is not False or "patternProperties" in part
    if isinstance(most, int) and most > max(1, len(part.get("required", ()))) and is_open:
        raise ConfigError(
            f"{where}: keyword 'minProperties' is not supported above 1 where any key may be added: a repeated key would not count",
            hint="name the keys in 'properties' and 'required', or set additionalProperties to false",
        )
