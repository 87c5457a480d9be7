"""A case of a suite: what is asked, what is expected, and where it belongs."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from posttrain.config import Config, content_hash, parse
from posttrain.errors import ConfigError, DataError
from posttrain.records import Message, ToolCall


@dataclass(frozen=True, slots=True)
class Case:
    """One test. ``expected`` is any JSON the scorers read; ``slices`` name the groups it is reported in.

    ``group`` names what makes cases alike (a report, a conversation): intervals treat a group as one draw. ``line`` is its
    place in the file, for messages.
    """

    id: str
    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    expected: Any = None
    slices: tuple[str, ...] = ()
    group: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    line: int = 0
    hash: str = ""

    @property
    def text(self) -> str:
        """What is the case's own, for contamination checks: the conversation without its system prompt, and what is expected.

        The calls a question needs are left out, as their lists of accepted values are nothing anybody says; in a world, where one question
        has many answers, they make the case its own.
        """
        from posttrain.data import speech

        if isinstance(self.expected, Mapping) and "calls" in self.expected and "world" not in self.metadata:
            return speech(self.messages)
        expected = self.expected if isinstance(self.expected, str) else json.dumps(self.expected, ensure_ascii=False)
        return speech(self.messages) if self.expected is None else f"{speech(self.messages)}\n{expected}"

    @property
    def content(self) -> str:
        """Hash of what is asked and expected. Cases with the same one are copies, whatever their ids, slices and groups."""
        asked = {"messages": [asdict(message) for message in self.messages], "tools": self.tools, "world": self.metadata.get("world")}
        return content_hash(asked | {"expected": self.expected})


def group_cases(cases: Iterable[Case]) -> dict[str, str]:
    """Case id to its group: its own (a case without one is alone), joined with the groups of its copies."""
    joined: dict[str, str] = {}
    first: dict[str, str] = {}
    found = [(case, case.group or case.id) for case in cases]
    for case, group in found:
        joined[_joined(group, joined)] = _joined(first.setdefault(case.content, group), joined)
    return {case.id: _joined(group, joined) for case, group in found}


def _joined(group: str, joined: Mapping[str, str]) -> str:
    while joined.get(group, group) != group:
        group = joined[group]
    return group


class _Function(Config):
    name: str
    arguments: dict[str, Any] | str = Field(default_factory=dict)


class _Call(Config):
    id: str | None = None
    type: str = "function"
    function: _Function


class _Turn(Config):
    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    tool_calls: tuple[_Call, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None


class CaseRow(Config):
    """A line of a case file. Unknown keys are refused, so a misspelt one cannot pass for a missing one."""

    id: str = Field(min_length=1)
    """Names the case in results and messages; unique in the file."""
    messages: tuple[_Turn, ...] = Field(min_length=1)
    """The conversation up to the turn the model has to write."""
    tools: tuple[dict[str, Any], ...] = ()
    """JSON Schema signatures offered to the model."""
    expected: Any = None
    """What a good answer is, in the form the suite's scorers read."""
    slices: tuple[str, ...] = ()
    """Groups the case is reported and gated in."""
    group: str = ""
    """What makes cases alike; intervals treat a group as one draw."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    """Anything else worth keeping."""


def read_cases(path: Path) -> list[Case]:
    """All cases of a JSONL file, in order. Raises DataError naming file, line, field, value and fix."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path}: no such case file", hint="check `cases:` in the suite; it is relative to the suite file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}", hint="a case file is UTF-8 JSON Lines") from None
    cases: list[Case] = []
    lines: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        case = _case(line, number, f"{path}:{number}")
        if case.id in lines:
            raise DataError(f"{path}:{number}: id '{case.id}' was used on line {lines[case.id]}", hint="give every case its own id")
        lines[case.id] = number
        cases.append(case)
    if not cases:
        raise DataError(f"{path}: no cases", hint="write one JSON object a line with id, messages and expected")
    return cases


def _case(line: str, number: int, where: str) -> Case:
    try:
        data = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON: {error.msg} at column {error.colno}: {line[:60]!r}", hint="one JSON object a line") from None
    try:
        row = parse(CaseRow, data, where=where)
    except ConfigError as error:
        raise DataError(error.message, hint="see docs/evaluation.md for the columns of a case") from None
    messages = tuple(
        Message(turn.role, turn.content, tuple(_call(call, where) for call in turn.tool_calls), turn.tool_call_id, turn.name)
        for turn in row.messages
    )
    return Case(row.id, messages, row.tools, row.expected, row.slices, row.group, row.metadata, number, content_hash(row.dump()))


def _call(call: _Call, where: str) -> ToolCall:
    arguments = call.function.arguments
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except json.JSONDecodeError:
            raise DataError(f"{where}: arguments of tool call '{call.function.name}' are not JSON: {arguments[:60]!r}") from None
    if not isinstance(arguments, dict):
        raise DataError(f"{where}: arguments of tool call '{call.function.name}' are not an object")
    return ToolCall(call.function.name, arguments, call.id)
