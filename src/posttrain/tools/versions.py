"""Versions of tools: recorded once, compared later, with a diff that says which tool changed and how."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from posttrain.config import content_hash
from posttrain.errors import CheckFailed, DataError
from posttrain.tools.tool import Tool

ABSENT = object()


def record_of(tools: Iterable[Tool]) -> dict[str, Any]:
    """``{"version", "tools": {name: {"version", "contract"}}}``, plain JSON; the version covers names and versions of all tools."""
    known = {item.name: {"version": item.version, "contract": item.contract} for item in sorted(tools, key=lambda item: item.name)}
    versions = {name: entry["version"] for name, entry in known.items()}
    return {"version": "sha256:" + content_hash(versions), "tools": known}


def read_record(path: str | Path) -> dict[str, Any]:
    """A record as ``posttrain tools show --json`` printed it. Raises DataError."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file", hint="make it with `posttrain tools show FILE --json`") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a record of tools: {error}", hint="make it with `posttrain tools show FILE --json`") from None
    if not isinstance(value, dict):
        raise DataError(
            f"{path}: not a record of tools, but {type(value).__name__}", hint="make it with `posttrain tools show FILE --json`"
        )
    return value


def tool_changes(recorded: Mapping[str, Any], tools: Iterable[Tool]) -> list[str]:
    """What differs between a record made by :func:`record_of` and ``tools`` now: a line a tool, its fields below; empty when nothing does.

    Where only versions were recorded (``{"tools": {name: "sha256:..."}}``) the lines say which tool changed, not how.
    """
    before = recorded.get("tools")
    if not isinstance(before, Mapping):
        raise DataError("the record of tools has no 'tools'", hint="make one with Toolbox.record() or `posttrain tools show FILE --json`")
    now = {item.name: item for item in tools}
    lines: list[str] = []
    for name in sorted({*before, *now}):
        if name not in now:
            lines.append(f"{name}: recorded, no longer there")
        elif name not in before:
            lines.append(f"{name}: not recorded, new")
        else:
            lines += _changed(name, before[name], now[name])
    return lines


def check_versions(recorded: Mapping[str, Any], tools: Iterable[Tool]) -> None:
    """Raise CheckFailed with :func:`tool_changes` when there are any."""
    lines = tool_changes(recorded, tools)
    if lines:
        raise CheckFailed(
            "tools are not those that were recorded:\n  " + "\n  ".join(lines), hint="use the recorded ones, or evaluate anew"
        )


def _changed(name: str, recorded: Any, item: Tool) -> list[str]:
    entry = recorded if isinstance(recorded, Mapping) else {"version": recorded}
    if entry.get("version") == item.version:
        return []
    contract = json.loads(json.dumps(item.contract))
    fields = list(_differences(entry["contract"], contract, "")) if "contract" in entry else []
    return [f"{name}: version {str(entry.get('version'))[:19]} -> {item.version[:19]}", *(f"  {line}" for line in fields)]


def _differences(before: Any, after: Any, path: str) -> Iterator[str]:
    """A line a differing leaf: ``signature.function.description: 'old' -> 'new'``."""
    if before == after and type(before) is type(after):
        return
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in dict.fromkeys([*before, *after]):
            yield from _differences(before.get(key, ABSENT), after.get(key, ABSENT), f"{path}.{key}" if path else str(key))
    else:
        yield f"{path}: {_show(before)} -> {_show(after)}"


def _show(value: Any) -> str:
    text = "(absent)" if value is ABSENT else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:197] + "..."
