"""Tools from files: OpenAI tool objects, bare functions and MCP listings in JSON or YAML; decorated functions in Python."""

import importlib.util
import json
import sys
import traceback
from collections.abc import Mapping
from dataclasses import fields
from hashlib import sha256
from pathlib import Path
from typing import Any

from posttrain.errors import ConfigError, suggest
from posttrain.tools.tool import Tool

_SETTINGS = {field.name for field in fields(Tool)} - {"name", "description", "parameters", "function", "isolate", "caller_argument"}
_SCHEMA_KEYS = ("parameters", "inputSchema", "input_schema")
_IGNORED = {"type", "strict", "title", "annotations", "outputSchema", "icons", "_meta", "response", "execution"}


def load_tools(path: str | Path) -> list[Tool]:
    """The tools of a ``.json``, ``.yaml``, ``.yml`` or ``.py`` file, in its order.

    JSON and YAML hold a list, or a mapping with ``tools``, of OpenAI tool objects, bare ``{name, description, parameters}`` or MCP's
    ``{name, description, inputSchema}``; beside the signature an entry may set ``action``, ``roles``, ``tenants``, ``cost``,
    ``timeout_seconds``, ``retries``, ``max_result_chars`` and ``declared_version``. Such tools have no function. A Python file is
    executed; every :class:`Tool` at its top level counts. Raises ConfigError naming file, tool and place.
    """
    file = Path(path)
    if file.suffix == ".py":
        tools = _from_python(file)
    elif file.suffix in (".json", ".yaml", ".yml"):
        tools = [_from_entry(entry, f"{file}: tools[{index}]") for index, entry in enumerate(_entries(file))]
    else:
        raise ConfigError(f"{file}: no tools are read from '{file.suffix}' files", hint="give a .json, .yaml or .py file")
    check_names(tools, str(file))
    return tools


def check_names(tools: list[Tool], where: str) -> None:
    """Raise ConfigError when two tools have one name."""
    seen: set[str] = set()
    for item in tools:
        if item.name in seen:
            raise ConfigError(f"{where}: two tools are called '{item.name}'", hint="rename one; a call must mean one tool")
        seen.add(item.name)


def _entries(file: Path) -> list[Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        text = file.read_text(encoding="utf-8")
        value = json.loads(text) if file.suffix == ".json" else YAML(typ="safe", pure=True).load(text)
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file", hint="check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}", hint="it must be a readable UTF-8 text file") from None
    except (json.JSONDecodeError, YAMLError, RecursionError) as error:
        kind = "JSON" if file.suffix == ".json" else "YAML"
        raise ConfigError(f"{file}: not valid {kind}: {' '.join(str(error).split())[:300]}", hint="fix the place named") from None
    if isinstance(value, Mapping) and isinstance(value.get("result"), Mapping):  # an MCP answer as it came over the wire
        value = value["result"]
    if isinstance(value, Mapping) and "tools" in value:
        value = value["tools"]
    elif isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list) or not value:
        found = "an empty list" if value == [] else type(value).__name__
        raise ConfigError(
            f"{file}: expected a list of tools, found {found}", hint='write [{"name": ..., "description": ..., "parameters": ...}]'
        )
    return value


def _from_entry(entry: Any, where: str) -> Tool:
    if not isinstance(entry, Mapping):
        raise ConfigError(
            f"{where} is {type(entry).__name__}, not a mapping", hint='write {"name": ..., "description": ..., "parameters": ...}'
        )
    outer = {key: value for key, value in entry.items() if key != "function"}
    function = entry.get("function")
    signature = {**outer, **function} if isinstance(function, Mapping) else outer
    schemas = [key for key in _SCHEMA_KEYS if key in signature]
    if len(schemas) > 1:
        raise ConfigError(f"{where} has both {schemas[0]} and {schemas[1]}", hint="keep one")
    if not isinstance(signature.get("name"), str):
        raise ConfigError(f"{where} has no name", hint="an OpenAI tool has it in function.name, the other forms beside the parameters")
    settings = {key: value for key, value in signature.items() if key in _SETTINGS}
    for key in signature:
        if key not in _SETTINGS | _IGNORED | {"name", "description", *_SCHEMA_KEYS}:
            known = _SETTINGS | {"name", "description", "parameters"}
            raise ConfigError(f"{where} ({signature['name']}): unknown key '{key}'", hint=suggest(str(key), known))
    parameters = signature[schemas[0]] if schemas else {"type": "object", "properties": {}}
    try:
        return Tool(name=signature["name"], description=signature.get("description") or "", parameters=parameters, **settings)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.message}", hint=error.hint) from None


def _from_python(file: Path) -> list[Tool]:
    if not file.is_file():
        raise ConfigError(f"{file}: no such file", hint="check the path")
    name = f"posttrain_tools_{file.stem}_{sha256(str(file.resolve()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, file.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # type hints and other processes look the module up by name
    try:
        spec.loader.exec_module(module)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error.message}", hint=error.hint) from None
    except (Exception, SystemExit) as error:  # a script that ends the program would pass for a check that found nothing
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file.resolve())]
        line = error.lineno if isinstance(error, SyntaxError) else (lines[-1] if lines else None)
        raise ConfigError(f"{file}:{line or '?'}: {type(error).__name__}: {error}", hint="the file must import without error") from None
    tools = list({id(value): value for value in vars(module).values() if isinstance(value, Tool)}.values())
    if not tools:
        raise ConfigError(f"{file}: holds no tools", hint="decorate functions with @tool (from posttrain.tools import tool)")
    return tools
