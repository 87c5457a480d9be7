"""Frozen, typed configuration: read YAML 1.2, apply dotted overrides, validate with near-miss messages, dump.

Knows no stage. A configuration class lives beside the code that reads it and derives from :class:`Config`.
"""

import copy
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from posttrain.errors import ConfigError, suggest


class Config(BaseModel):
    """Base of every configuration class: frozen, unknown keys refused, a docstring under each field."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)

    def dump(self) -> dict[str, Any]:
        """The resolved form as plain JSON types."""
        return self.model_dump(mode="json")


C = TypeVar("C", bound=BaseModel)


def content_hash(value: Any) -> str:
    """SHA-256 (hex) of a JSON-able value in canonical form: sorted keys, no spaces, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_hash(path: str | Path) -> str:
    """SHA-256 (hex) of a file's bytes, streamed."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while chunk := handle.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def path_hash(path: str | Path) -> str:
    """:func:`file_hash` of a file; of a folder, SHA-256 over names and contents of all files in it and below, hidden ones left out."""
    place = Path(path)
    if place.is_file():
        return file_hash(place)
    names = sorted(file.relative_to(place) for file in place.rglob("*") if file.is_file())
    return content_hash({str(name): file_hash(place / name) for name in names if not any(part.startswith(".") for part in name.parts)})


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML 1.2 mapping (so ``5e-4`` is a number and ``no`` a string). Raises ConfigError with line and column."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file", hint="check the path; `posttrain init` writes one to start from") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}", hint="it must be a readable UTF-8 text file") from None
    try:
        value = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ConfigError(f"{file}{where}: not valid YAML: {getattr(error, 'problem', None) or error}", hint="fix the line named") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{file}: expected a mapping at the top, found {type(value).__name__}", hint="write `key: value` lines")
    return value


def apply_overrides(data: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of ``data`` with ``a.b.0.c=value`` assignments applied; values are read as YAML 1.2 scalars."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    result = copy.deepcopy(data)
    for override in overrides:
        path, equals, raw = override.partition("=")
        if not equals or not path:
            raise ConfigError(f"override '{override}' is not of the form key.subkey=value", hint="for example --set seed=3")
        keys = path.split(".")
        node: Any = result
        for depth, key in enumerate(keys[:-1]):
            node = _child(node, key, ".".join(keys[: depth + 1]))
        try:
            value = YAML(typ="safe", pure=True).load(raw)
        except YAMLError:
            raise ConfigError(f"override '{override}': the value is not valid YAML", hint="put a text with [ { or : in quotes") from None
        if isinstance(node, list):
            node[_index(node, keys[-1], path)] = value
        elif isinstance(node, dict):
            node[keys[-1]] = value
        else:
            raise ConfigError(f"override '{path}': '{'.'.join(keys[:-1])}' is not a mapping or list")
    return result


def _child(node: Any, key: str, path: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, key, path)]
    if isinstance(node, dict):
        if node.get(key) is None:
            node[key] = {}
        return node[key]
    raise ConfigError(f"override '{path}': cannot go into a {type(node).__name__}")


def _index(node: list[Any], key: str, path: str) -> int:
    if not key.isdigit() or int(key) >= len(node):
        raise ConfigError(f"override '{path}': '{key}' is not an index into a list of {len(node)}")
    return int(key)


def parse(cls: type[C], data: Any, *, where: str) -> C:
    """Validate ``data`` as ``cls``. Every problem is named: where, field, value seen, what is accepted."""
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        lines = [_explain(cls, problem) for problem in error.errors()]
        raise ConfigError(f"{where}: " + "\n  ".join(lines), hint="nothing was run; fix the value and try again") from None


def _explain(cls: type[BaseModel], problem: Any) -> str:
    location = [str(part) for part in problem["loc"]]
    field = ".".join(location) or "(top)"
    if problem["type"] == "extra_forbidden":
        owner = _owner(cls, problem["loc"][:-1])
        known = owner.model_fields if owner else {}
        return f"unknown key '{field}': {suggest(location[-1], known)}"
    if problem["type"] == "missing":
        return f"'{field}' is required"
    seen = repr(problem.get("input"))
    return f"'{field}': {problem['msg'][0].lower()}{problem['msg'][1:]} (got {seen[:80]})"


def _owner(cls: type[BaseModel], path: Sequence[Any]) -> type[BaseModel] | None:
    """The configuration class that owns the key at ``path``, following nested fields, lists and unions."""
    owner: type[BaseModel] | None = cls
    for part in path:
        if owner is None:
            return None
        if isinstance(part, int) or part not in owner.model_fields:
            continue
        owner = _model_in(owner.model_fields[part].annotation)
    return owner


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_in(argument)
        if found:
            return found
    return None
