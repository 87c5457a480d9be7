"""Tools from wherever they are: a file, or an MCP server by URL or command. And how they are shown to people."""

import json
import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from posttrain.errors import ConfigError
from posttrain.records import ToolCall
from posttrain.tools.access import Caller
from posttrain.tools.arguments import describe
from posttrain.tools.audit import AuditLog
from posttrain.tools.files import load_tools
from posttrain.tools.mcp_tools import McpTools
from posttrain.tools.tool import Tool
from posttrain.tools.toolbox import Toolbox

MCP_COMMAND = "mcp:"


@dataclass(frozen=True, slots=True)
class Opened:
    """The tools of a source, and the names that could not be used with the reason."""

    tools: list[Tool]
    left_out: dict[str, str]


@contextmanager
def open_tools(source: str) -> Iterator[Opened]:
    """``source``: a file (:func:`load_tools`), the URL of an MCP server, or ``mcp:COMMAND ...`` that starts one. Errors as theirs.

    What a Python file prints goes to the error output.
    """
    if source.startswith(("http://", "https://", MCP_COMMAND)):
        with McpTools(_command(source) if source.startswith(MCP_COMMAND) else source) as mcp:
            yield Opened(mcp.tools, mcp.left_out)
    else:
        with redirect_stdout(sys.stderr):
            tools = load_tools(source)
        yield Opened(tools, {})


def _command(source: str) -> list[str]:
    try:
        return shlex.split(source.removeprefix(MCP_COMMAND))
    except ValueError as error:
        raise ConfigError(f"{source}: not a command: {error}", hint="write it as for a shell: 'mcp:python \"my server.py\"'") from None


def call_once(
    source: str, name: str, arguments: str, *, role: str, tenant: str, audit: str | Path | None, episode: str, dry_run: bool
) -> dict[str, Any]:
    """One call of a tool of ``source`` with JSON ``arguments``, as a record; ConfigError when the arguments are no JSON object."""
    try:
        given = json.loads(arguments)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"the arguments are not JSON: {error}", hint='for example \'{"account": "1000"}\'') from None
    log = AuditLog(audit) if audit is not None else None
    try:
        with open_tools(source) as opened:
            box = Toolbox(opened.tools, caller=Caller(role, tenant), audit=log, dry_run=dry_run, episode=episode)
            with redirect_stdout(sys.stderr):
                return asdict(box.call(ToolCall(name, given)))
    finally:
        if log is not None:
            log.close()


def tool_lines(tools: Iterable[Tool]) -> list[str]:
    """A few lines a tool: name, kind, version, who may call it; the first sentence of its description; its arguments."""
    lines: list[str] = []
    for item in tools:
        who = [f"roles {', '.join(sorted(item.roles))}"] if item.roles is not None else []
        who += [f"tenants {', '.join(sorted(item.tenants))}"] if item.tenants is not None else []
        lines.append("  ".join([item.name, "action" if item.action else "read", item.version[:19], *who]))
        if item.description:
            lines.append(f"    {item.description.splitlines()[0][:120]}")
        required = item.parameters.get("required", [])
        for name, schema in item.parameters.get("properties", {}).items():
            about = schema.get("description", "") if isinstance(schema, dict) else ""
            optional = "" if name in required else ", optional"
            lines.append(f"    {name}: {describe(schema)}{optional}" + (f" - {about[:100]}" if about else ""))
    return lines
