"""The tools of an MCP server as tools of ours. What a server says about itself is untrusted text."""

import hashlib
import json
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from posttrain.errors import ConfigError
from posttrain.tools.failures import ToolError, ToolUnavailable
from posttrain.tools.mcp_connection import Lost, McpConnection
from posttrain.tools.results import writable
from posttrain.tools.schema import DATA_KEYWORDS
from posttrain.tools.tool import Tool

if TYPE_CHECKING:
    from mcp_types import CallToolResult
    from mcp_types import Tool as ListedTool

MAX_TEXT_CHARS = 1000
PROBE_SECONDS = 3.0
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]")


class McpTools:
    """The tools of one MCP server: ``with McpTools(["python", "server.py"]) as mcp: Toolbox([*mcp, other], ...)``.

    ``server`` is a URL (streamable HTTP; ``headers`` go with every request) or a command (stdio; of the environment it sees ``env`` and a
    few harmless variables only). Every tool counts as an action, done at most once, unless its name is in ``read_only``: what the server
    says of itself is not believed. Descriptions are cut at 1,000 characters and lose invisible characters. ``prefix`` goes before every
    name; ``options`` are fields of :class:`Tool` (roles, tenants, cost, max_result_chars).

    The list is fixed when it is first read. It is read again before every call (before what is no action, every ``check_every_seconds``):
    a tool that was changed or removed is "unavailable" from then on. So is every tool while the server is down, hangs or cannot be
    reached; the next call connects again. Tools that cannot be used are in :attr:`left_out` with the reason.
    Raises ConfigError for a wrong setting, InfrastructureError when the server cannot be opened.
    """

    def __init__(
        self,
        server: str | Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float = 30.0,
        read_only: Collection[str] = (),
        prefix: str = "",
        check_every_seconds: float = 0.0,
        **options: Any,
    ) -> None:
        self._connection = McpConnection(server, env=env or {}, headers=headers or {}, timeout_seconds=timeout_seconds)
        self._check_every = check_every_seconds
        self.left_out: dict[str, str] = {}
        self.tools: list[Tool] = []
        try:
            self._connection.open()
            listed = self._list()
            unknown = sorted(set(read_only) - {item.name for item in listed})
            if unknown:
                raise ConfigError(f"read_only names '{unknown[0]}', which MCP server '{self._connection.name}' does not have")
            self._fixed = {item.name: _fingerprint(item) for item in listed}
            limit = 2 * timeout_seconds + PROBE_SECONDS
            for item in listed:
                self._add(item, prefix, item.name not in read_only, options | {"timeout_seconds": limit})
        except BaseException:
            self._connection.close()
            raise
        self._checked = time.monotonic()

    def __iter__(self) -> Iterator[Tool]:
        return iter(self.tools)

    def __len__(self) -> int:
        return len(self.tools)

    def __enter__(self) -> "McpTools":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the connection, and the server if it was started here."""
        self._connection.close()

    def _add(self, item: "ListedTool", prefix: str, is_action: bool, options: dict[str, Any]) -> None:
        name = item.name

        def call(**arguments: Any) -> str:
            return self._call(name, arguments, is_action)

        settings = {
            "declared_version": f"{self._connection.server_version} {self._fixed[name][:16]}".strip(),
            "action": is_action,
            **options,
        }
        if is_action:
            settings.pop("retries", None)
        try:
            made = Tool(prefix + name, _text(item.description or ""), _trimmed(item.input_schema), call, **settings)
        except ConfigError as error:
            self.left_out[_text(name)[:200]] = error.message[:500]
            return
        if any(made.name == other.name for other in self.tools):
            self.left_out[name] = "its name is taken by another tool of the same server"
            return
        self.tools.append(made)

    def _call(self, name: str, arguments: dict[str, Any], is_action: bool) -> str:
        if is_action or self._connection.suspect or time.monotonic() - self._checked > self._check_every:
            self._check(name)
        try:
            result = self._connection.call(name, arguments)
        except Lost as lost:
            unknown = "; whether it was done is not known" if is_action and lost.sent else ""
            raise ToolUnavailable(f"{lost}{unknown}", settled=not (is_action and lost.sent)) from None
        text = _result_text(result)
        if result.is_error:
            raise ToolError(text, settled=not is_action)  # how far an action got, only the server knows
        return text

    def _check(self, name: str) -> None:
        """Read the list again, over a new connection where the old one is dead; refuse a tool that is no longer what it was."""
        try:
            try:
                listed = self._list(PROBE_SECONDS if self._connection.suspect else None)
            except Lost:
                self._connection.forget()
                listed = self._list()
        except Lost as lost:
            raise ToolUnavailable(str(lost)) from None
        self._connection.suspect = False
        self._checked = time.monotonic()
        now = {item.name: _fingerprint(item) for item in listed}
        if name not in now:
            raise ToolUnavailable("the server no longer has it")
        if now[name] != self._fixed[name]:
            raise ToolUnavailable("the server has changed it since it was listed; open the server anew to use the changed tool")

    def _list(self, seconds: float | None = None) -> list["ListedTool"]:
        return self._connection.list_tools(seconds)


def _fingerprint(item: "ListedTool") -> str:
    """Hash over all that a server says of a tool and that a model or a check could see, uncut."""
    told = item.model_dump(mode="json", by_alias=True, include={"name", "description", "input_schema", "output_schema", "annotations"})
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _text(text: str) -> str:
    """Untrusted text: without control and invisible characters, of bounded length."""
    clean = _CONTROL.sub("", writable(text))
    return clean if len(clean) <= MAX_TEXT_CHARS else clean[: MAX_TEXT_CHARS - 4] + " ..."


def _trimmed(schema: Any, key: str = "") -> Any:
    """A schema whose descriptions are bounded; values that are data stay as they are."""
    if key in DATA_KEYWORDS:
        return schema
    if isinstance(schema, dict):
        return {name: _trimmed(value, name) for name, value in schema.items()}
    if isinstance(schema, list):
        return [_trimmed(item) for item in schema]
    return _text(schema) if isinstance(schema, str) and key in ("description", "title", "$comment") else schema


def _result_text(result: "CallToolResult") -> str:
    """The texts of a result; what is no text is named; a result without content is its structured value as JSON."""
    parts: list[str] = []
    for block in result.content:
        text = getattr(block, "text", None)
        resource = getattr(block, "resource", None)
        if text is None and resource is not None:
            text = getattr(resource, "text", None)
        if text is None:
            size = len(getattr(block, "data", "") or getattr(resource, "blob", "") or "")
            text = f"[{block.type}, {size:,} characters of data, not shown]" if size else f"[{block.type} {getattr(block, 'uri', '')}]"
        parts.append(text)
    if not parts and result.structured_content is not None:
        return json.dumps(result.structured_content, ensure_ascii=False)
    return "\n".join(parts)
