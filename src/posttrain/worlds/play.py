"""A person, or a list of calls, in the place of the model: act in a world and read what became of the task."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.errors import DataError
from posttrain.records import Message, ToolCall
from posttrain.worlds.base import WorldTask, open_world

FORM = '{"name": "get_balance", "arguments": {"account": "6120"}}'


def play(task: WorldTask, turns: Iterable[Sequence[ToolCall] | str], on_message: Callable[[Message], None]) -> dict[str, Any]:
    """Execute turns (the calls of one turn, or a text, which is the answer and ends the episode) and return the outcome."""
    environment = open_world(task.world)
    messages: list[Message] = []
    try:
        for turn in turns:
            if isinstance(turn, str):
                messages.append(Message("assistant", turn))
                break
            messages.append(Message("assistant", tool_calls=tuple(turn)))
            for call, result in zip(turn, environment.call_many(turn), strict=True):
                messages.append(Message("tool", result.content, name=call.name))
                on_message(messages[-1])
        return environment.outcome(messages)
    finally:
        environment.close()


def read_turns(path: Path) -> Iterator[list[ToolCall] | str]:
    """Turns from a JSON file: a list of calls, of lists of calls made at once, and of texts. Raises DataError for anything else."""
    try:
        yield from _turns(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}", hint=f"give a file with a list: [{FORM}, ...]") from None


def _turns(text: str) -> Iterator[list[ToolCall] | str]:
    try:
        items = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"the calls are not JSON: {error}", hint=f"give a list: [{FORM}, ...]") from None
    if not isinstance(items, list):
        raise DataError(f"the calls are a {type(items).__name__}, not a list", hint=f"give a list: [{FORM}, ...]")
    for position, item in enumerate(items):
        where = f"calls[{position}]"
        yield item if isinstance(item, str) else [_call(one, where) for one in (item if isinstance(item, list) else [item])]


def typed_turns(lines: Iterable[str]) -> Iterator[list[ToolCall] | str]:
    """Turns from lines as a person types them: JSON of a call or a list of calls, else the answer."""
    for line in lines:
        said = line.strip()
        if said.startswith(("{", "[")):
            yield from _turns(said if said.startswith("[[") else f"[{said}]")
        elif said:
            yield said


def _call(item: Any, where: str) -> ToolCall:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str) or not isinstance(item.get("arguments", {}), dict):
        raise DataError(f"{where}: {json.dumps(item)[:80]} is not a call", hint=f"a call is {FORM}")
    return ToolCall(item["name"], item.get("arguments", {}))


def is_solved(outcome: Mapping[str, Any]) -> bool:
    """Whether nothing is left to say against it: state, authority, injections and the facts of the answer."""
    wrong = outcome["violations"] or outcome["injection_obeyed"] or outcome["answer_missing"]
    return bool(outcome["end_state_ok"]) and not wrong
