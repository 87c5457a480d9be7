"""Turns a row's columns into messages and values: OpenAI, ShareGPT, plain text and HH transcripts, tools and tool calls."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from posttrain.records import FieldError, Message, ToolCall

Row = Mapping[str, Any]

ROLE_NAMES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "ipython": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "function_response": "tool",
}
CALL_ROLES = ("function_call", "tool_call")
ARGUMENT_KEYS = ("arguments", "parameters", "args", "input")
CALL_KEYS = ("name", "function", "id", "call_id", "type", "index")
TRAIN_KEYS = ("weight", "train", "training")
UNREAD_KEYS = (
    *("refusal", "audio", "image", "images", "video", "videos", "file", "files", "attachments"),
    *("train_detail", "loss", "loss_mask", "loss_weight"),
)
"""Keys of a message that change what is said or trained and are not read: refused when they hold something. Others are passed over."""
TRUE_WORDS = ("true", "1", "1.0", "good", "yes")
FALSE_WORDS = ("false", "0", "0.0", "bad", "no")
TRANSCRIPT = re.compile(r"\r?\n\r?\n(Human|Assistant):")


def text(value: Any, field: str, *, required: bool = True) -> str:
    """A string that can be written as UTF-8; None is '' where the column is optional."""
    if value is None and not required:
        return ""
    if not isinstance(value, str):
        raise FieldError(field, "is not text", value, fix="give a string")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise FieldError(
                field,
                f"holds half a surrogate pair at character {error.start}",
                value,
                fix="the text was cut inside an emoji or badly escaped: repair it",
            ) from None
    if required and not value.strip():
        raise FieldError(field, "is empty", value, fix="fill the column, or remove the row")
    return value


def json_value(value: Any, field: str) -> Any:
    """The value itself, or what it decodes to when it is a string of JSON (as CSV files and ShareGPT's ``tools`` hold it)."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise FieldError(field, f"is a string that is not JSON: {error}", value, fix="give a list or object, or valid JSON text") from None


def truth(value: Any, field: str) -> bool:
    """true or false, also as the words and numbers that files write for them."""
    said = str(value).strip().lower()
    if said not in TRUE_WORDS + FALSE_WORDS:
        raise FieldError(field, "is neither true nor false", value, fix="use true for a good answer, false for a bad one")
    return said in TRUE_WORDS


def number(value: Any, field: str) -> float:
    """A number, also as text."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise FieldError(field, "is not a number", value, fix="give a number, or leave the column out") from None


def messages(value: Any, field: str) -> tuple[Message, ...]:
    """A list of ``{role, content}`` or ``{from, value}`` objects (or one such object) as messages."""
    value = json_value(value, field)
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, Sequence):
        raise FieldError(field, "is not a list of messages", value, fix='give [{"role": "user", "content": "..."}, ...]')
    return tuple(_message(item, f"{field}[{position}]") for position, item in enumerate(value))


def _message(item: Any, where: str) -> Message:
    if not isinstance(item, Mapping):
        raise FieldError(where, "is not a message", item, fix='a message is {"role": "user", "content": "..."}')
    role_key = "role" if "role" in item else "from"
    content_key = "content" if "content" in item else "value"
    given = item.get(role_key)
    spoken = given.strip().lower() if isinstance(given, str) else ""
    role = ROLE_NAMES.get(spoken)
    if role is None:
        raise FieldError(f"{where}.{role_key}", "is not a known role", given, fix=f"use one of: {', '.join(ROLE_NAMES)}")
    for key in UNREAD_KEYS:
        if item.get(key):
            fix = "put text that is to be said into the content, or remove the key or the row; 'weight': 0 keeps a turn from training"
            raise FieldError(f"{where}.{key}", "is not read, and the message means something else without it", item[key], fix=fix)
    untrained = role == "assistant" and not _trains(item, where)
    if spoken in CALL_ROLES:
        field = f"{where}.{content_key}"
        return Message(role=role, tool_calls=_calls(json_value(item.get(content_key), field), field), untrained=untrained)
    calls: tuple[ToolCall, ...] = ()
    if item.get("tool_calls"):
        calls = _calls(json_value(item["tool_calls"], f"{where}.tool_calls"), f"{where}.tool_calls")
    elif item.get("function_call"):
        calls = _calls(json_value(item["function_call"], f"{where}.function_call"), f"{where}.function_call")
    return Message(
        role=role,
        content=_content(item.get(content_key), f"{where}.{content_key}", optional=bool(calls)),
        tool_calls=calls,
        tool_call_id=_optional(item, "tool_call_id", where),
        name=_optional(item, "name", where),
        reasoning=_optional(item, "reasoning_content", where) or _optional(item, "reasoning", where) or _optional(item, "thinking", where),
        untrained=untrained,
    )


def _trains(item: Row, where: str) -> bool:
    """What ``weight`` (OpenAI) or ``train`` says: 0 or false keeps the turn out of training."""
    said = {key: item[key] for key in TRAIN_KEYS if item.get(key) is not None}
    for key, value in said.items():
        if value not in (0, 1):
            raise FieldError(f"{where}.{key}", "is neither 0 nor 1", value, fix="1 (true) trains on the turn, 0 (false) does not")
    if len(set(said.values())) > 1:
        first, second, *_ = said
        raise FieldError(f"{where}.{first}", f"contradicts '{second}'", said, fix="say it once")
    return all(said.values())


def _optional(item: Row, key: str, where: str) -> str | None:
    return text(item.get(key), f"{where}.{key}", required=False) or None


def _content(value: Any, field: str, *, optional: bool) -> str:
    if value is None and optional:
        return ""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "".join(_part(part, f"{field}[{position}]") for position, part in enumerate(value))
    return text(value if value is not None else "", field, required=False)


def _part(part: Any, field: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping) or part.get("type") != "text":
        kind = part.get("type") if isinstance(part, Mapping) else part
        raise FieldError(field, "is not a text part", kind, fix="only text can be trained on: remove images, audio and files")
    return text(part.get("text") or "", f"{field}.text", required=False)


def _calls(value: Any, field: str) -> tuple[ToolCall, ...]:
    items = [value] if isinstance(value, Mapping) else value
    if not isinstance(items, Sequence) or isinstance(items, str):
        raise FieldError(field, "is not a tool call", value, fix='give {"name": "...", "arguments": {...}} or a list of them')
    return tuple(_call(item, f"{field}[{position}]") for position, item in enumerate(items))


def _call(item: Any, field: str) -> ToolCall:
    if not isinstance(item, Mapping):
        raise FieldError(field, "is not a tool call", item, fix='give {"name": "...", "arguments": {...}}')
    function = item.get("function") or item
    if not isinstance(function, Mapping):
        raise FieldError(f"{field}.function", "is not an object", function, fix='give {"name": "...", "arguments": {...}}')
    return ToolCall(text(function.get("name"), f"{field}.name"), _arguments({**item, **function}, field), _optional(item, "id", field))


def _arguments(call: Row, field: str) -> Mapping[str, Any]:
    """The call's arguments under any of :data:`ARGUMENT_KEYS`; none is an empty object only where the call holds no unknown key."""
    said = {key: call[key] for key in ARGUMENT_KEYS if call.get(key) is not None}
    if not said:
        unknown = [key for key, value in call.items() if value is not None and key not in (*CALL_KEYS, *ARGUMENT_KEYS)]
        if unknown:
            fix = 'give {"name": "...", "arguments": {...}}; a call without arguments has no other key'
            raise FieldError(f"{field}.{unknown[0]}", "is no part of a call, and the call has no 'arguments'", call[unknown[0]], fix=fix)
        return {}
    values = {key: json_value(value, f"{field}.{key}") if value != "" else {} for key, value in said.items()}
    key, arguments = next(iter(values.items()))
    if not isinstance(arguments, Mapping):
        raise FieldError(f"{field}.{key}", "is not an object", arguments, fix="give the arguments as a JSON object")
    if any(value != arguments for value in values.values()):
        raise FieldError(f"{field}.{key}", f"differs from '{list(values)[1]}' of the same call", arguments, fix="give the arguments once")
    return arguments


def tools(row: Row) -> tuple[Mapping[str, Any], ...]:
    """The row's tool signatures, always as ``{"type": "function", "function": {...}}``; bare signatures are wrapped."""
    given = {key: _signatures(row[key], key) for key in ("tools", "functions") if row.get(key)}
    first = next(iter(given.values()), ())
    if any(one != first for one in given.values()):
        raise FieldError("functions", "differs from 'tools'", row["functions"], fix="keep one of the two columns")
    return first


def _signatures(value: Any, key: str) -> tuple[Mapping[str, Any], ...]:
    items = json_value(value, key)
    if not isinstance(items, Sequence) or isinstance(items, str):
        raise FieldError(
            key, "is not a list of tools", items, fix="give a list of JSON Schema function signatures, or that list as JSON text"
        )
    result = []
    for position, item in enumerate(items):
        signature = json_value(item, f"{key}[{position}]")
        wrapped = signature if isinstance(signature, Mapping) and "function" in signature else {"type": "function", "function": signature}
        function = wrapped["function"]
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise FieldError(
                f"{key}[{position}]",
                "has no function name",
                signature,
                fix='give {"type": "function", "function": {"name": ..., "parameters": ...}}',
            )
        result.append(wrapped)
    return tuple(result)


def transcript(value: Any, field: str) -> tuple[Message, ...]:
    """An HH transcript, ``\\n\\nHuman: ...\\n\\nAssistant: ...``, as messages."""
    said_all = text(value, field).replace("\r\n", "\n")
    pieces = TRANSCRIPT.split(said_all if said_all.startswith("\n\n") else "\n\n" + said_all.lstrip("\n"))
    if pieces[0].strip() or len(pieces) < 3:
        raise FieldError(field, "is not a transcript", value, fix="it must begin with '\\n\\nHuman:' and alternate with '\\n\\nAssistant:'")
    roles = {"Human": "user", "Assistant": "assistant"}
    return tuple(Message(role=roles[speaker], content=said.strip()) for speaker, said in zip(pieces[1::2], pieces[2::2], strict=True))


def is_transcript(value: Any) -> bool:
    """Whether a value is an HH transcript: it begins with the human's turn, after a blank line or with an answer behind it."""
    if not isinstance(value, str) or not value.lstrip("\r\n").startswith("Human:"):
        return False
    return TRANSCRIPT.match(value) is not None or any(match[1] == "Assistant" for match in TRANSCRIPT.finditer(value))


def side(value: Any, field: str, role: str) -> tuple[Message, ...]:
    """A prompt or completion column: a list or object is read as messages, an HH transcript as its turns (an ``Assistant:`` that waits for
    its answer is none), other text becomes one message of ``role``."""
    if not isinstance(value, str):
        return messages(value, field)
    if not is_transcript(value):
        return (Message(role=role, content=text(value, field)),)
    turns = transcript(value, field)
    return turns[:-1] if turns[-1] == Message(role="assistant") else turns


def answer(prompt: Any, turns: tuple[Message, ...], value: Any, field: str) -> tuple[Message, ...]:
    """A completion column beside the column ``prompt``, read as ``turns``: text goes on with the prompt's transcript where that is one,
    and a completion that repeats the prompt loses it."""
    if isinstance(value, str) and value.strip() and is_transcript(prompt) and not is_transcript(value):
        value = f"\n\nAssistant:{value}"
        return transcript(value, field)
    full = side(value, field, "assistant")
    return full[len(turns) :] if full[: len(turns)] == turns else full


def with_system(row: Row, turns: tuple[Message, ...]) -> tuple[Message, ...]:
    """The turns with the row's ``system`` (or ``system_prompt``) column put in front, when it has one. Two that differ are refused."""
    said = {key: text(row.get(key), key, required=False) for key in ("system", "system_prompt")}
    given = {key: content for key, content in said.items() if content.strip()}
    if not given or not turns:
        return turns
    key, content = next(iter(given.items()))
    if any(other.strip() != content.strip() for other in given.values()):
        raise FieldError("system_prompt", "differs from 'system'", given["system_prompt"], fix="keep one of the two columns")
    if turns[0].role != "system":
        return (Message(role="system", content=content), *turns)
    if turns[0].content.strip() != content.strip():
        raise FieldError(key, "differs from the system turn that the conversation begins with", content, fix="keep one of the two")
    return turns


def with_untrained(row: Row, turns: tuple[Message, ...]) -> tuple[Message, ...]:
    """The turns, with those left out of training that an older version of this package noted by position in the metadata."""
    metadata = json_value(row.get("metadata") or {}, "metadata")
    positions = metadata.get("untrained_turns") if isinstance(metadata, Mapping) else None
    if positions is None:
        return turns
    if not isinstance(positions, list) or not all(place in range(len(turns)) for place in positions):
        fix = 'say "weight": 0 on the messages that are not to train, and rename this entry'
        raise FieldError("metadata.untrained_turns", "is not a list of positions of messages", positions, fix=fix)
    return tuple(
        replace(turn, untrained=turn.untrained or (turn.role == "assistant" and place in positions)) for place, turn in enumerate(turns)
    )
