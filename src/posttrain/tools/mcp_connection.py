"""A connection to one MCP server, held by a thread of its own and made anew when it was lost. Needs the extra ``mcp``."""

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from posttrain.errors import ConfigError, InfrastructureError
from posttrain.tools.results import redact

if TYPE_CHECKING:
    from mcp import Client
    from mcp_types import CallToolResult
    from mcp_types import Tool as ListedTool

MAX_TOOLS = 1000
MAX_PAGES = 50
PAUSE_SECONDS = 1.0
"""After a failed attempt to connect, the next one waits this long; calls in between are answered at once."""
CLOSE_SECONDS = 10.0

T = TypeVar("T")


class Lost(Exception):
    """The server is not there, or did not answer in time. ``sent``: the request may have reached it."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class McpConnection:
    """``server`` is a URL (streamable HTTP) or a command with its arguments (stdio; it sees only ``env`` and a few harmless variables).

    Methods may be called from any thread. Raises :class:`Lost` when the server fails; the next request connects again.
    """

    def __init__(self, server: str | Sequence[str], *, env: Mapping[str, str], headers: Mapping[str, str], timeout_seconds: float) -> None:
        try:
            import mcp  # noqa: F401
        except ImportError:
            raise ConfigError("MCP servers need a library that is not installed", hint="pip install 'posttrain[mcp]'") from None
        if not server or (isinstance(server, str) and not server.startswith(("http://", "https://"))):
            raise ConfigError(
                f"MCP server {redact(str(server))!r} is neither a URL nor a command", hint='give "http://..." or ["python", "server.py"]'
            )
        self.name = redact(server if isinstance(server, str) else " ".join(server))
        self._server = server
        self._env, self._headers, self._timeout = dict(env), dict(headers), timeout_seconds
        self._lock = threading.Lock()
        self._client: Client | None = None
        self.suspect = False
        """A request went unanswered, so the connection may hang."""
        self._stop: asyncio.Event | None = None
        self._holders: list[concurrent.futures.Future[None]] = []
        self._not_before = 0.0
        self._said: deque[bytes] = deque(maxlen=20)
        logging.getLogger("mcp").addHandler(logging.NullHandler())  # what it reports reaches the caller as errors, not as tracebacks
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mcp", daemon=True)
        self._thread.start()

    def open(self) -> None:
        """Connect now. Raises InfrastructureError with what the server wrote to its error output, if anything."""
        try:
            self._connected()
        except Lost as error:
            said = b"".join(self._said).decode("utf-8", "replace").strip().splitlines()
            hint = f"it wrote: {redact(said[-1])[:300]}" if said else "check the command or the URL, and that the server runs"
            raise InfrastructureError(f"MCP server '{self.name}' could not be opened: {error}", hint=hint) from None

    @property
    def server_version(self) -> str:
        """Name and version the server gives itself, or ``""``."""
        info = self._client.server_info if self._client is not None else None
        return f"{info.name} {info.version}"[:100] if info is not None else ""

    def list_tools(self, seconds: float | None = None) -> list["ListedTool"]:
        """All pages of the server's tools, at most :data:`MAX_TOOLS`."""
        return self._ask(self._list_all, self._timeout if seconds is None else seconds)

    def call(self, name: str, arguments: dict[str, Any]) -> "CallToolResult":
        """Call a tool of the server."""
        return self._ask(lambda client: client.call_tool(name, arguments), self._timeout)

    def forget(self) -> None:
        """Drop the connection (a server started here is ended); the next request makes a new one."""
        with self._lock:
            self._drop()

    def close(self) -> None:
        """End the connection and its thread."""
        with self._lock:
            self._drop()
            self._not_before = float("inf")
        if self._loop.is_closed():
            return
        concurrent.futures.wait(self._holders, CLOSE_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_SECONDS)
        self._loop.close()

    def _ask(self, request: Callable[["Client"], Coroutine[Any, Any, T]], seconds: float) -> T:
        from mcp import MCPError
        from mcp_types import CONNECTION_CLOSED

        client = self._connected()
        future = asyncio.run_coroutine_threadsafe(request(client), self._loop)
        try:
            return future.result(seconds)
        except concurrent.futures.TimeoutError:
            future.cancel()
            self.suspect = True
            raise Lost(f"the server did not answer within {seconds:g} seconds", sent=True) from None
        except MCPError as error:
            if error.code != CONNECTION_CLOSED:
                raise
            why = "closed the connection"
        except (RuntimeError, ValueError):  # an answer that breaks the protocol or the tool's own output schema
            raise
        except Exception as error:  # whatever the transport raises: sockets, streams, task groups
            why = f"was lost: {_innermost(error)}"
        with self._lock:
            if self._client is client:
                self._drop()
        raise Lost(f"the server {why}", sent=True)

    def _connected(self) -> "Client":
        with self._lock:
            if self._client is not None:
                return self._client
            if time.monotonic() < self._not_before:
                raise Lost("the server cannot be reached", sent=False)
            ready: concurrent.futures.Future[Client] = concurrent.futures.Future()
            self._holders = [holder for holder in self._holders if not holder.done()]
            self._holders.append(asyncio.run_coroutine_threadsafe(self._hold(ready), self._loop))
            try:
                self._client = ready.result(self._timeout)
            except concurrent.futures.TimeoutError:
                self._drop()
                why = f"it did not answer within {self._timeout:g} seconds"
            except Exception as error:
                why = _innermost(error)
            else:
                return self._client
            self._not_before = time.monotonic() + PAUSE_SECONDS
            raise Lost(why, sent=False)

    def _drop(self) -> None:
        """Tell the holder to leave; the client's tasks, and a process started here, end with it."""
        if self._client is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        elif self._holders:
            self._holders[-1].cancel()
        self._client = self._stop = None
        self.suspect = False

    async def _hold(self, ready: "concurrent.futures.Future[Client]") -> None:
        """Keep the client open in one task, as its library asks for, until told to stop."""
        from mcp import Client

        try:
            async with contextlib.AsyncExitStack() as closing:
                client = await closing.enter_async_context(Client(await self._transport(closing)))
                self._stop = stop = asyncio.Event()
                ready.set_result(client)
                await stop.wait()
        except Exception as error:
            if not ready.done():
                ready.set_exception(error)

    async def _transport(self, closing: contextlib.AsyncExitStack) -> Any:
        import httpx2
        from mcp import StdioServerParameters
        from mcp.client.stdio import stdio_client
        from mcp.client.streamable_http import streamable_http_client

        if isinstance(self._server, str):
            timeout = httpx2.Timeout(self._timeout, read=None)
            http = await closing.enter_async_context(httpx2.AsyncClient(headers=self._headers, timeout=timeout))
            return streamable_http_client(self._server, http_client=http)
        reading, writing = os.pipe()
        threading.Thread(target=self._listen, args=(reading,), name="mcp-errors", daemon=True).start()
        errors = closing.enter_context(os.fdopen(writing, "w"))
        command = StdioServerParameters(command=self._server[0], args=list(self._server[1:]), env=self._env)
        return stdio_client(command, errlog=errors)

    def _listen(self, reading: int) -> None:
        """Keep the end of what the server writes to its error output, so that it neither blocks nor fills anything."""
        with open(reading, "rb") as stream:
            while line := stream.readline(10_000):
                self._said.append(line)

    async def _list_all(self, client: "Client") -> list["ListedTool"]:
        listed: list[ListedTool] = []
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            page = await client.list_tools(cursor=cursor, cache_mode="refresh")
            listed += page.tools
            cursor = page.next_cursor
            if cursor is None or len(listed) >= MAX_TOOLS:
                break
        return listed[:MAX_TOOLS]


def _innermost(error: BaseException) -> str:
    """The first error inside nested groups, which is what went wrong; one line."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}".removesuffix(": ")
