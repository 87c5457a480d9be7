"""Text that looks like a control token stays text: what a user, a document or a tool writes never ends a turn or opens another.

A special token written literally in a message would become the real token when the rendering is encoded. Such text is marked before
rendering with two Unicode noncharacters, and encoded piece by piece with added tokens switched off. Only messages that hold such text
pay for it.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tokenizers import Tokenizer

from posttrain.chat.alignment import Encoded, encoded
from posttrain.errors import ContractError
from posttrain.records import Message, ToolCall

OPEN, CLOSE = "\ufdd0", "\ufdd1"
_MARKED = re.compile(f"{OPEN}([^{OPEN}{CLOSE}]*){CLOSE}")
_MARKS = re.compile(f"[{OPEN}{CLOSE}]")

Tools = Sequence[Mapping[str, Any]]


class ControlText:
    """Finds, marks and encodes literal control tokens of one tokenizer and template.

    Special tokens are control tokens in every message. Other added tokens the template writes itself (``<tool_call>``, ``<think>``) are
    so outside assistant messages: an assistant may write them.
    """

    def __init__(self, backend: Tokenizer, template: str) -> None:
        self._backend = backend
        self._literal = Tokenizer.from_str(_without_added_tokens(backend))
        self._added_ids = frozenset(backend.get_added_tokens_decoder())
        added = backend.get_added_tokens_decoder().values()
        special = [token.content for token in added if token.special]
        written = [token.content for token in added if not token.special and token.content.strip() and token.content in template]
        self._in_assistant = _pattern(special)
        self._elsewhere = _pattern(special + written)
        self._newline = backend.encode("\n", add_special_tokens=False).ids

    def found(self, messages: Sequence[Message], tools: Tools = ()) -> list[str]:
        """Literal control tokens in a conversation, each once, in order of appearance."""
        texts = [(self._pattern_for(message), text) for message in messages for text in _texts(message)]
        if tools:
            texts.append((self._elsewhere, json.dumps(list(tools), ensure_ascii=False)))
        return list(dict.fromkeys(hit for pattern, text in texts for hit in pattern.findall(text)))

    def mark(self, messages: Sequence[Message], tools: Tools = ()) -> tuple[list[Message], list[Any]]:
        """The same conversation with every literal control token between :data:`OPEN` and :data:`CLOSE`."""
        marked = [self._mark_message(message) for message in messages]
        return marked, [self._mark_value(tool, self._elsewhere) for tool in tools]

    def encode(self, text: str, cuts: Sequence[int] = (), *, marked: bool = True) -> Encoded:
        """Ids of a text, offsets into ``text``. Marked parts are encoded without added tokens; no token straddles a cut.

        ``marked``: the text comes from :meth:`mark`; in any other the two noncharacters are text.
        """
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        for begin, end, literal in _pieces(text, cuts, marked=marked):
            piece_ids, piece_offsets = self._encode_piece(text[begin:end], literal=literal, first=not ids)
            ids += piece_ids
            offsets += [(begin + start, begin + stop) for start, stop in piece_offsets]
        return encoded(ids, offsets)

    def _encode_piece(self, piece: str, *, literal: bool, first: bool) -> tuple[list[int], list[tuple[int, int]]]:
        backend = self._literal if literal else self._backend
        encoding = backend.encode("\n" + piece, add_special_tokens=False)
        skip = len(self._newline)
        if first or encoding.ids[:skip] != self._newline:
            encoding = backend.encode(piece, add_special_tokens=False)
            ids, offsets = encoding.ids, encoding.offsets
        else:
            # Encoded behind a newline: tokenizers that put a space in front of a text do not do it in the middle of one.
            ids, offsets = encoding.ids[skip:], [(max(0, start - 1), max(0, stop - 1)) for start, stop in encoding.offsets[skip:]]
        if literal and not self._added_ids.isdisjoint(ids):
            raise ContractError(f"the text {piece!r} cannot be written without the control token", hint="remove it from the message")
        return ids, offsets

    def _pattern_for(self, message: Message) -> re.Pattern[str]:
        return self._in_assistant if message.role == "assistant" else self._elsewhere

    def _mark_message(self, message: Message) -> Message:
        pattern = self._pattern_for(message)
        calls = tuple(
            ToolCall(_mark(call.name, pattern), self._mark_value(call.arguments, pattern), call.id) for call in message.tool_calls
        )
        reasoning = None if message.reasoning is None else _mark(message.reasoning, pattern)
        name = None if message.name is None else _mark(message.name, pattern)
        return replace(message, content=_mark(message.content, pattern), tool_calls=calls, reasoning=reasoning, name=name)

    def _mark_value(self, value: Any, pattern: re.Pattern[str]) -> Any:
        if isinstance(value, str):
            return _mark(value, pattern)
        if isinstance(value, Mapping):
            for key in value:
                if pattern.search(str(key)):
                    raise ContractError(f"the key {key!r} of a tool or call holds a control token", hint="rename the key")
            return {key: self._mark_value(item, pattern) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._mark_value(item, pattern) for item in value]
        return value


def unmark(text: str) -> str:
    """A marked text without its marks."""
    return _MARKS.sub("", text)


def literals(text: str) -> list[str]:
    """The literal control tokens of a marked text."""
    return _MARKED.findall(text)


def _mark(text: str, pattern: re.Pattern[str]) -> str:
    if _MARKS.search(text):
        raise ContractError("a message holds literal control tokens and the noncharacters U+FDD0 or U+FDD1", hint="remove the latter")
    return pattern.sub(f"{OPEN}\\g<0>{CLOSE}", text)


def _pattern(tokens: Sequence[str]) -> re.Pattern[str]:
    longest_first = sorted(set(tokens), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def _texts(message: Message) -> list[str]:
    texts = [message.content, message.reasoning or "", message.name or ""]
    for call in message.tool_calls:
        texts += [call.name, json.dumps(dict(call.arguments), ensure_ascii=False)]
    return [text for text in texts if text]


def _without_added_tokens(backend: Tokenizer) -> str:
    state = json.loads(backend.to_str())
    state["added_tokens"] = []
    return json.dumps(state)


def _pieces(text: str, cuts: Sequence[int], *, marked: bool) -> list[tuple[int, int, bool]]:
    """(begin, end, literal) of the parts of ``text``, marks left out: cut at marks and at ``cuts``, empty parts dropped."""
    parts: list[tuple[int, int, bool]] = []
    place = 0
    for match in _MARKED.finditer(text) if marked else ():
        parts += [(place, match.start(), False), (match.start(1), match.end(1), True)]
        place = match.end()
    parts.append((place, len(text), False))
    if marked and any(_MARKS.search(text, begin, end) for begin, end, literal in parts if not literal):
        raise ContractError("the template takes a literal control token apart", hint="remove the control token from the message")
    for cut in cuts:
        parts = [piece for part in parts for piece in _cut(part, cut)]
    return [part for part in parts if part[0] < part[1]]


def _cut(part: tuple[int, int, bool], cut: int) -> list[tuple[int, int, bool]]:
    begin, end, literal = part
    return [(begin, cut, literal), (cut, end, literal)] if begin < cut < end else [part]
