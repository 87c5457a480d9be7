"""Tools in the hands of one caller: permissions, budget, deadlines, each action at most once, a record of every call."""

import hashlib
import json
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

from posttrain.errors import DataError, InfrastructureError, suggest
from posttrain.records import CallStatus, ToolCall, ToolResult
from posttrain.tools.access import UNLIMITED, Budget, Caller, Spending
from posttrain.tools.arguments import check_arguments, hide_secrets, plain_json
from posttrain.tools.audit import AuditLog
from posttrain.tools.execution import Runner
from posttrain.tools.failures import InvalidArguments
from posttrain.tools.files import check_names
from posttrain.tools.invoke import invalid_text
from posttrain.tools.results import error_text, writable
from posttrain.tools.tool import Tool
from posttrain.tools.versions import check_versions, record_of

MAX_PARALLEL = 8
MAX_AUDIT_CHARS = 20_000
MAX_REFUSAL_CHARS = 2_000
KEY_ARGUMENT = "idempotency_key"
"""An action with an argument of this name is done once a key; one without, once for the same arguments."""


@dataclass(frozen=True, slots=True)
class _Call:
    """A call that passed every check."""

    tool: Tool
    arguments: dict[str, Any]
    key: str
    digest: str


class Toolbox:
    """Tools for one caller and one episode.

    ``call`` never raises for what a model or a tool can cause; it raises InfrastructureError when the audit log cannot be written, and then
    the action was not begun. An action is done at most once: the same ``idempotency_key`` (where the tool has such an argument), else the
    same arguments, bring back the first result with status "repeated". With ``audit`` and an ``episode`` name this also holds for a toolbox
    made again after a crash. With ``dry_run`` actions are checked and answered, not done. ``secrets`` never appear in error text.
    """

    def __init__(
        self,
        tools: Iterable[Tool],
        *,
        caller: Caller,
        budget: Budget = UNLIMITED,
        audit: AuditLog | None = None,
        dry_run: bool = False,
        episode: str = "",
        secrets: Sequence[str] = (),
    ) -> None:
        items = list(tools)
        check_names(items, "toolbox")
        self.tools = {item.name: item for item in items}
        self.caller = caller
        self.budget = budget
        self.spent = Spending()
        self._audit = audit
        self._dry_run = dry_run
        self._episode = episode or uuid.uuid4().hex
        self._secrets = tuple(secrets)
        self._runner = Runner(caller, self._secrets)
        self._lock = threading.Lock()
        self._action_lock = threading.Lock()
        self._done: dict[str, tuple[str, ToolResult]] = {}
        if audit is not None and episode:
            try:
                self._remember(audit.actions(episode))
            except (KeyError, TypeError):
                raise DataError(
                    f"{audit.path}: what it says of the actions of episode '{episode}' was changed or damaged",
                    hint=f"posttrain tools audit verify {audit.path}",
                ) from None

    @property
    def visible(self) -> list[Tool]:
        """The tools this caller may use, in their order."""
        return [item for item in self.tools.values() if item.permits(self.caller.role, self.caller.tenant)]

    @property
    def signatures(self) -> tuple[dict[str, Any], ...]:
        """What the model is shown: the tools this caller may use, in OpenAI's form."""
        return tuple(item.signature for item in self.visible)

    @property
    def version(self) -> str:
        """``sha256:...`` over the versions of all tools, whoever may use them."""
        return str(self.record()["version"])

    def record(self) -> dict[str, Any]:
        """Version and contract of every tool, plain JSON, for :func:`check_versions` later."""
        return record_of(self.tools.values())

    def check_versions(self, recorded: Mapping[str, Any]) -> None:
        """Raise CheckFailed, with a diff, unless the tools are those of ``recorded``, which :meth:`record` made."""
        check_versions(recorded, self.tools.values())

    def call(self, call: ToolCall) -> ToolResult:
        """One call."""
        return self.call_many([call])[0]

    def call_many(self, calls: Sequence[ToolCall]) -> list[ToolResult]:
        """Results in the order of the calls; in parallel when there is no action among them, else one after the other."""
        if len(calls) < 2 or any(self._is_action(call) for call in calls):
            return [self._one(call) for call in calls]
        admitted = [self._admit(call) for call in calls]
        with self._waiting(), ThreadPoolExecutor(max_workers=MAX_PARALLEL) as pool:
            return list(pool.map(self._finish, calls, admitted))

    def _is_action(self, call: ToolCall) -> bool:
        return call.name in self.tools and self.tools[call.name].action

    def _one(self, call: ToolCall) -> ToolResult:
        with self._action_lock if self._is_action(call) else nullcontext():
            admitted = self._admit(call)
            with self._waiting():
                return self._finish(call, admitted)

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self.spent.seconds += time.monotonic() - started

    def _admit(self, call: ToolCall) -> _Call | ToolResult:
        """The call ready to run, its cost reserved; or the result it gets without being run."""
        name, shown = call.name, str(call.name)[:80]
        with self._lock:
            self.spent.calls += 1
            over = self.spent.over(self.budget, 0.0)
        if over:
            return _over_budget(over)
        tool = self.tools.get(name)
        usable = [item.name for item in self.visible]
        if tool is None:
            return _refusal("unknown_tool", f"There is no tool '{shown}'; {suggest(shown, usable)}")
        if tool.name not in usable:
            others = ", ".join(usable) or "none"
            return _refusal(
                "forbidden", f"{name} was not called: {self.caller.role} of {self.caller.tenant} may not use it. Permitted: {others}."
            )
        try:
            arguments = plain_json(call.arguments)
            check_arguments(tool.parameters, arguments)
        except InvalidArguments as error:
            return _refusal("invalid_arguments", error_text(invalid_text(name, error.problems), self._secrets))
        if tool.function is None:
            return _refusal("unavailable", f"{name} cannot be called here: nothing carries it out.")
        ready = _Call(tool, arguments, *_identity(tool, arguments))
        repeated = self._repeated(ready) if tool.action else None
        if repeated is not None:
            return repeated
        if tool.action and self._dry_run:
            shown = json.dumps(hide_secrets(tool.parameters, arguments), ensure_ascii=False)[: tool.max_result_chars]
            return ToolResult(writable(f"Dry run: would call {name} with {shown}. Nothing was done."), status="dry_run")
        with self._lock:
            over = self.spent.over(self.budget, tool.cost)
            if not over:
                self.spent.cost += tool.cost
        return _over_budget(over) if over else ready

    def _finish(self, call: ToolCall, admitted: _Call | ToolResult) -> ToolResult:
        if isinstance(admitted, ToolResult):
            self._log("call", call.name, call.arguments, admitted)
            return admitted
        if admitted.tool.action:
            return self._act(admitted)
        result, _ = self._run(admitted)
        self._log("call", admitted.tool.name, admitted.arguments, result, admitted)
        return result

    def _run(self, ready: _Call) -> tuple[ToolResult, bool]:
        seconds = min(ready.tool.timeout_seconds, self.spent.seconds_left(self.budget))
        started = time.monotonic()
        answer = self._runner.run(ready.tool, ready.arguments, seconds)
        return answer.result(time.monotonic() - started), answer.settled

    def _act(self, ready: _Call) -> ToolResult:
        """Record the intent, do it, record the end. From the intent on it counts as begun, unless the tool says that nothing was done."""
        name = ready.tool.name
        intent = self._log("intent", name, ready.arguments, None, ready)
        self._done[ready.key] = (ready.digest, _lost(name))
        result, settled = self._run(ready)
        if result.is_error and settled:
            del self._done[ready.key]
        else:
            self._done[ready.key] = (ready.digest, result)
        try:
            self._log("done", name, ready.arguments, result, ready, intent=intent, settled=settled, content=result.content)
        except InfrastructureError as error:
            raise InfrastructureError(
                f"{name} was carried out, but its end could not be recorded: {error.message}", hint=error.hint
            ) from None
        return result

    def _repeated(self, ready: _Call) -> ToolResult | None:
        """The first result of an action that was begun before; None when it was not."""
        if ready.key not in self._done:
            return None
        digest, first = self._done[ready.key]
        name = ready.tool.name
        if digest != ready.digest:
            return _refusal("invalid_arguments", f"{name} was not called: this idempotency_key was used before with other arguments.")
        if not first.is_error:
            return ToolResult(first.content, status="repeated")
        return _refusal(
            "repeated", f"{name} was begun before and is not tried again, because it may have been done. It said: {first.content}"
        )

    def _remember(self, actions: list[dict[str, Any]]) -> None:
        """Take over what the audit log says this episode has begun, for the same person of the same tenant."""
        mine = (self.caller.tenant, self.caller.subject)
        for intent in actions:
            if (intent["caller"]["tenant"], intent["caller"]["subject"]) != mine:
                continue
            end = intent.get("done")
            if end is None:
                self._done[intent["key"]] = (intent["digest"], _lost(intent["tool"]))
            elif not (end["is_error"] and end["settled"]):
                first = ToolResult(end["content"], end["is_error"], end["status"], end["seconds"])
                self._done[intent["key"]] = (intent["digest"], first)

    def _log(self, event: str, name: str, arguments: Any, result: ToolResult | None, ready: _Call | None = None, **more: Any) -> int:
        """One line in the audit log, when there is one; durable around actions. Returns its number."""
        if self._audit is None:
            return 0
        tool = self.tools.get(name)
        line: dict[str, Any] = {
            "event": event,
            "episode": self._episode,
            "caller": asdict(self.caller),
            "tool": str(name)[:200],
            "version": tool.version if tool else "",
            "arguments": _loggable(tool, arguments),
        }
        if ready is not None:
            line |= {"key": ready.key, "digest": ready.digest}
        if result is not None:
            cost = ready.tool.cost if ready else 0.0
            line |= {"status": result.status, "is_error": result.is_error, "seconds": round(result.seconds, 6), "cost": cost}
            line["result_sha256"] = hashlib.sha256(result.content.encode()).hexdigest()
        return self._audit.append(line | more, durable=event != "call")


def _refusal(status: CallStatus, content: str) -> ToolResult:
    return ToolResult(writable(content[:MAX_REFUSAL_CHARS]), is_error=True, status=status)


def _over_budget(why: str) -> ToolResult:
    return _refusal("over_budget", f"Not called, the budget is spent: {why}. Answer with what is known.")


def _lost(name: str) -> ToolResult:
    return _refusal("error", f"{name} was begun, then interrupted; whether it was done is not known.")


def _identity(tool: Tool, arguments: Mapping[str, Any]) -> tuple[str, str]:
    """(what makes two calls the same action, hash of the arguments): defaults filled in, 5.0 as 5, the key itself left out."""
    properties = tool.parameters.get("properties", {})
    defaults = {name: schema["default"] for name, schema in properties.items() if isinstance(schema, Mapping) and "default" in schema}
    given = {name: value for name, value in {**defaults, **arguments}.items() if name != KEY_ARGUMENT or name not in properties}
    digest = hashlib.sha256(json.dumps(_same_numbers(given), sort_keys=True).encode()).hexdigest()
    key = arguments.get(KEY_ARGUMENT) if KEY_ARGUMENT in properties else None
    return (f"{tool.name}:key:{key}" if key else f"{tool.name}:arguments:{digest}"), digest


def _same_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _same_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_same_numbers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _loggable(tool: Tool | None, arguments: Any) -> Any:
    """Arguments as the log keeps them: passwords hidden, very long ones by length only."""
    try:
        plain = plain_json(arguments)
    except InvalidArguments:
        return {"unreadable": type(arguments).__name__}
    length = len(json.dumps(plain))
    return {"omitted_characters": length} if length > MAX_AUDIT_CHARS else hide_secrets(tool.parameters if tool else {}, plain)
