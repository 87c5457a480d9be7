"""A tool from a Python function: its type hints become the schema, its docstring the descriptions."""

import inspect
import json
from collections.abc import Callable
from typing import Any, get_args, get_type_hints, overload

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo

from posttrain.errors import ConfigError
from posttrain.tools.access import Caller
from posttrain.tools.arguments import hide_secrets
from posttrain.tools.docstrings import read_docstring
from posttrain.tools.failures import InvalidArguments
from posttrain.tools.schema import DATA_KEYWORDS
from posttrain.tools.tool import Tool

_FIRST = ("type", "description", "properties", "items", "anyOf", "enum")  # the order people write them in


class TypedFunction:
    """Calls a function with JSON arguments turned into the types of its hints (dates, enums, models, contained paths)."""

    def __init__(self, function: Callable[..., Any], model: type[BaseModel], parameters: dict[str, Any], caller_argument: str) -> None:
        self.__wrapped__ = function
        self._model = model
        self._parameters = parameters
        self._caller_argument = caller_argument

    def __call__(self, /, **arguments: Any) -> Any:
        """Call it; InvalidArguments when a value does not become what the hint asks for."""
        caller = {self._caller_argument: arguments.pop(self._caller_argument)} if self._caller_argument in arguments else {}
        try:
            checked = self._model.model_validate(arguments)
        except ValidationError as error:
            secret = {name for name, shown in hide_secrets(self._parameters, arguments).items() if shown != arguments[name]}
            raise InvalidArguments([_sentence(problem, secret) for problem in error.errors(include_url=False)]) from None
        values = {str(type(checked).model_fields[field].alias): getattr(checked, field) for field in checked.model_fields_set}
        return self.__wrapped__(**values, **caller)


@overload
def tool(function: Callable[..., Any], **options: Any) -> Tool: ...
@overload
def tool(function: None = None, **options: Any) -> Callable[[Callable[..., Any]], Tool]: ...
def tool(function: Callable[..., Any] | None = None, **options: Any) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """A :class:`Tool` from a function; a decorator, bare or with options: ``@tool(action=True, roles=("treasurer",))``.

    Name and description come from the function unless ``name`` or ``description`` are given; the other options are :class:`Tool`'s. Every
    parameter needs a type hint. A parameter hinted ``Caller`` receives the caller and is not shown to the model. Raises ConfigError.
    """
    if function is None:
        return lambda decorated: _build(decorated, options)
    return _build(function, options)


def _build(function: Callable[..., Any], options: dict[str, Any]) -> Tool:
    options = dict(options)
    name = str(options.pop("name", "") or getattr(function, "__name__", "function"))
    description, about = read_docstring(function.__doc__)
    model, caller_argument = _model_of(function, name, about)
    parameters = _schema_of(model)
    settings = {"description": description, "caller_argument": caller_argument, **options}
    try:
        return Tool(name=name, parameters=parameters, function=TypedFunction(function, model, parameters, caller_argument), **settings)
    except TypeError as error:
        raise ConfigError(f"tool '{name}': {error}".replace("Tool.__init__() ", ""), hint="options are the fields of Tool") from None


def _model_of(function: Callable[..., Any], name: str, about: dict[str, str]) -> tuple[type[BaseModel], str]:
    """A pydantic model with one field a parameter (numbered, the name as alias, so that any name works), and the caller's parameter."""
    where = f"tool '{name}'"
    try:
        hints = get_type_hints(function, include_extras=True)
    except (NameError, TypeError) as error:
        raise ConfigError(f"{where}: its type hints cannot be read: {error}", hint="import the names that the hints use") from None
    fields: dict[str, Any] = {}
    caller_argument = ""
    for index, (key, parameter) in enumerate(inspect.signature(function).parameters.items()):
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise ConfigError(f"{where}: parameter '{parameter}' cannot be given by name", hint="use named parameters only")
        if key not in hints:
            raise ConfigError(f"{where}: parameter '{key}' has no type hint", hint=f"write {key}: str, or the type it has")
        if hints[key] is Caller and not caller_argument:
            caller_argument = key
            continue
        if _names_caller(hints[key]):  # in the schema, a model could say that somebody else calls
            raise ConfigError(
                f"{where}: parameter '{key}' is {parameter.annotation}", hint="one parameter, hinted Caller alone, receives the caller"
            )
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[f"argument_{index}"] = (hints[key], _field(default, key, about.get(key)))
    try:
        return create_model("Arguments", __config__=ConfigDict(extra="forbid"), **fields), caller_argument
    except (PydanticUserError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{where}: a type hint has no JSON form: {str(error).splitlines()[0]}", hint="use types with a JSON form"
        ) from None


def _names_caller(hint: Any) -> bool:
    return hint is Caller or any(_names_caller(part) for part in get_args(hint))


def _field(default: Any, alias: str, description: str | None) -> Any:
    if isinstance(default, FieldInfo):
        return FieldInfo.merge_field_infos(default, alias=alias, description=default.description or description)
    return Field(default, alias=alias, description=description)


def _schema_of(model: type[BaseModel]) -> dict[str, Any]:
    try:
        schema = model.model_json_schema()
    except PydanticUserError as error:
        raise ConfigError(f"a type hint has no JSON form: {str(error).splitlines()[0]}", hint="use types with a JSON form") from None
    definitions = schema.pop("$defs", {})
    schema.setdefault("properties", {})
    plain: dict[str, Any] = _inline(schema, definitions)
    if "#/$defs/" in json.dumps(plain):
        plain["$defs"] = {name: _inline(node, {}) for name, node in definitions.items()}
    return plain


def _inline(node: Any, definitions: dict[str, Any]) -> Any:
    """The schema without titles and, where a definition does not contain itself, with the definition in place of its reference."""
    if isinstance(node, list):
        return [_inline(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    name = str(node.get("$ref", "")).removeprefix("#/$defs/")
    if name in definitions and not _contains(definitions[name], name, definitions, set()):
        rest = {key: value for key, value in node.items() if key != "$ref"}
        return _inline(definitions[name] | rest, definitions)
    result: dict[str, Any] = {}
    for key in sorted(node, key=lambda key: _FIRST.index(key) if key in _FIRST else len(_FIRST)):
        value = node[key]
        if key == "properties":
            result[key] = {field: _inline(item, definitions) for field, item in value.items()}
        elif key != "title":
            result[key] = value if key in DATA_KEYWORDS else _inline(value, definitions)
    return result


def _contains(node: Any, name: str, definitions: dict[str, Any], seen: set[str]) -> bool:
    """Whether following references from ``node`` leads to ``name``."""
    if isinstance(node, list):
        return any(_contains(item, name, definitions, seen) for item in node)
    if not isinstance(node, dict):
        return False
    target = str(node.get("$ref", "")).removeprefix("#/$defs/")
    if target == name:
        return True
    if target in definitions and target not in seen:
        seen.add(target)
        if _contains(definitions[target], name, definitions, seen):
            return True
    return any(_contains(value, name, definitions, seen) for key, value in node.items() if key != "$ref")


def _sentence(problem: Any, secret: set[str]) -> str:
    place = ".".join(str(part) for part in problem["loc"]) or "the arguments object"
    message = str(problem["msg"]).removeprefix("Value error, ")
    shown = "(hidden)" if problem["loc"] and problem["loc"][0] in secret else repr(problem.get("input"))
    return f"{place} is {shown if len(shown) <= 80 else shown[:60] + '...'}; {message[:1].lower()}{message[1:]}"
