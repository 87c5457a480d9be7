"""How a template writes tool calls, found by rendering probes, and the calls read back from what a model wrote.

A call is a row of literals with holes between them: ``<tool_call>\\n{"name": "``, the name, ``", "arguments": ``, the arguments as a JSON
object, ``}\\n</tool_call>``. What stands in front of, between and behind several calls is found by rendering one call and two. No model's
name is looked at.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from posttrain.chat.call_reader import Reader, Unreadable
from posttrain.chat.rendering import PROBE_CALL
from posttrain.errors import ContractError
from posttrain.records import Message, ToolCall

Hole = Literal["name", "arguments", "id"]
TurnText = Callable[[Message], str]
"""The text of an assistant turn behind the generation prompt, end token left out. Raises ContractError where the template refuses it."""

_ANSWER, _REASONING = "probe answer", "probe reasoning"
_SECOND_CALL = ToolCall("second_tool", {"second_key": "second value", "third_key": [3, 4]}, id="secondcal")


@dataclass(frozen=True, slots=True)
class ParsedTurn:
    """What an assistant turn says. ``errors`` are sentences that tell the model what is wrong with the calls it tried to make."""

    content: str
    calls: tuple[ToolCall, ...] = ()
    errors: tuple[str, ...] = ()
    reasoning: str | None = None

    def message(self) -> Message:
        """The turn as a message of the conversation."""
        return Message("assistant", self.content, self.calls, reasoning=self.reasoning)


@dataclass(frozen=True)
class CallFormat:
    """A turn with calls: content, ``gap``, ``lead``, calls with ``separator`` between them, ``trail``.

    A call is ``literals[0]``, ``holes[0]``, ``literals[1]``, ... ``many``: whether a turn may hold several calls; ``with_content``:
    whether text may stand before them. ``answer_lead`` is what the template writes before an answer's text, ``thinking`` what stands
    before and behind reasoning. Separators are those of the arguments' JSON.
    """

    literals: tuple[str, ...]
    holes: tuple[Hole, ...]
    lead: str = ""
    separator: str = ""
    trail: str = ""
    gap: str = ""
    many: bool = False
    with_content: bool = False
    answer_lead: str = ""
    thinking: tuple[str, str] | None = None
    item_separator: str = ", "
    key_separator: str = ": "

    @cached_property
    def marker(self) -> str:
        """What begins the calls of a turn and nothing else: ``<tool_call>``. Empty where a call is a bare JSON object."""
        words = (self.lead.strip() or self._envelope.opening).split()
        return words[0] if words else ""

    @cached_property
    def _envelope(self) -> "_Envelope":
        text, places = "", {}
        for literal, hole in zip(self.literals, self.holes, strict=False):
            text += literal
            places[hole] = len(text)
            text += "{}" if hole == "arguments" else hole
        text += self.literals[-1]
        apart = _Envelope({}, self.literals[0], self.literals[-1])
        begin = self.literals[0].find("{")
        if begin < 0:
            return apart
        try:
            body, end = json.JSONDecoder().raw_decode(text, begin)
        except ValueError:
            return apart
        keys: dict[str, Hole] = {
            key: "arguments" if value == {} else value for key, value in body.items() if value == {} or value in self.holes
        }
        return _Envelope(keys, text[:begin], text[end:]) if set(keys.values()) == set(self.holes) else apart

    def parse(self, text: str) -> ParsedTurn:
        """Read the raw text of a turn: special tokens kept, the end token left out. Tolerant of white space, strict about JSON."""
        errors: list[str] = []
        reasoning, text = self._split_reasoning(text, errors)
        begin = self._find(text, 0)
        if begin < 0:
            return ParsedTurn(text.removeprefix(self.answer_lead), (), tuple(errors), reasoning)
        calls: list[ToolCall] = []
        content, end = text[:begin].removeprefix(self.answer_lead).strip(), begin
        while begin >= 0:
            reader = Reader(text, begin)
            try:
                self._read_group(reader, calls)
            except Unreadable as error:
                errors.append(str(error))
            end = max(reader.place, begin + 1)
            begin = self._find(text, end) if self.marker else -1
            between = text[end : begin if begin >= 0 else len(text)].strip()
            if between and not errors:
                errors.append(f"Text behind a call is not read: {shorten(between)}. Write it before the call, or as an answer of its own.")
        if len(calls) > 1 and not self.many:
            errors.append(f"One call a turn can be made here, and there are {len(calls)}.")
        return ParsedTurn(content, tuple(calls), tuple(errors), reasoning)

    def _find(self, text: str, start: int) -> int:
        """Where calls begin at or behind ``start``; -1 where none do."""
        if self.marker:
            return text.find(self.marker, start)
        keys = self._envelope.keys
        name_key = next((key for key, hole in keys.items() if hole == "name"), "")
        if not re.match(rf'\s*\{{\s*"{re.escape(name_key)}"\s*:', text):
            return -1
        try:
            body, _ = json.JSONDecoder().raw_decode(text.lstrip())
        except (ValueError, RecursionError):
            return start
        return start if set(keys) <= set(body) else -1

    def _split_reasoning(self, text: str, errors: list[str]) -> tuple[str | None, str]:
        if self.thinking is None or not text.lstrip().startswith(self.thinking[0].strip()):
            return None, text
        opening, closing = (part.strip() for part in self.thinking)
        inner, found, rest = text.lstrip()[len(opening) :].partition(closing)
        if not found:
            errors.append(f"The reasoning was not closed with {closing}.")
        return inner.strip() or None, rest.lstrip("\n")

    def _read_group(self, reader: Reader, calls: list[ToolCall]) -> None:
        """lead, calls, trail; each call is kept as soon as it is read whole."""
        reader.expect(self.lead)
        keys, opening, closing = self._envelope
        more = True
        while more:
            if keys:
                reader.expect(opening)
                values = _from_object(reader.json_object("The call"), keys)
                reader.expect(closing)
            else:
                values = self._from_literals(reader)
            name, arguments = values["name"], values["arguments"]
            if not isinstance(name, str) or not name.strip():
                raise Unreadable("The call names no tool.")
            if not isinstance(arguments, dict):
                raise Unreadable(f"The arguments of '{name}' must be a JSON object, not {shorten(json.dumps(arguments))}.")
            own_id = values.get("id")
            calls.append(ToolCall(name.strip(), arguments, own_id if isinstance(own_id, str) else None))
            more = reader.accept(self.separator) if self.separator.strip() else bool(opening.strip()) and reader.at(opening)
        reader.expect(self.trail)

    def _from_literals(self, reader: Reader) -> dict[str, Any]:
        values: dict[str, Any] = {}
        reader.expect(self.literals[0])
        for hole, literal in zip(self.holes, self.literals[1:], strict=True):
            if hole == "arguments":
                values[hole] = reader.json_object(f"The arguments of '{values.get('name', '')}'")
                reader.expect(literal)
            else:
                values[hole] = reader.until(literal).strip()
        return values


class _Envelope(NamedTuple):
    """A call that is one JSON object: its keys and what stands around it. No keys where name and arguments stand apart."""

    keys: Mapping[str, Hole]
    opening: str
    closing: str


def _from_object(body: Mapping[str, Any], keys: Mapping[str, Hole]) -> dict[str, Any]:
    shape = " and ".join(f"'{key}'" for key, hole in keys.items() if hole != "id")
    missing = [key for key, hole in keys.items() if key not in body and hole != "id"]
    unknown = sorted(set(body) - set(keys))
    if missing or unknown:
        wrong = f"'{missing[0]}' is missing" if missing else f"'{unknown[0]}' is unknown"
        raise Unreadable(f"A call is a JSON object with {shape}; {wrong}.")
    return {hole: body[key] for key, hole in keys.items() if key in body}


def derive_call_format(turn_text: TurnText) -> CallFormat:
    """The format of a template that prints calls. Raises ContractError, naming the template's rendering, where it cannot be told."""
    answer = turn_text(Message("assistant", _ANSWER))
    answer_lead = answer[: answer.index(_ANSWER)]
    one = turn_text(Message("assistant", "", (PROBE_CALL,))).removeprefix(answer_lead)
    spots = _spots(one, PROBE_CALL)
    head, tail = one[: spots[0][0]], one[spots[-1][1] :]
    between_holes = tuple(one[end:start] for (_, end, _), (start, _, _) in pairwise(spots))
    two = _try(turn_text, Message("assistant", "", (PROBE_CALL, _SECOND_CALL)))
    lead = separator = trail = ""
    many = two is not None and _SECOND_CALL.name in two
    if two is not None and many:
        two = two.removeprefix(answer_lead)
        joint = two[_spots(two, PROBE_CALL)[-1][1] : _spots(two, _SECOND_CALL)[0][0]]
        closing = _common_beginning(tail, joint)
        opening = _common_beginning(head[::-1], joint[len(closing) :][::-1])[::-1]
        lead, trail = head[: len(head) - len(opening)], tail[len(closing) :]
        separator = joint[len(closing) : len(joint) - len(opening)]
        head, tail = opening, closing
    gap, thinking = _gap(turn_text, one), _thinking(turn_text)
    item, key = _separators(two or turn_text(Message("assistant", "", (_SECOND_CALL,))))
    return CallFormat(
        literals=(head, *between_holes, tail),
        holes=tuple(hole for _, _, hole in spots),
        lead=lead,
        separator=separator,
        trail=trail,
        gap=gap or "",
        many=many,
        with_content=gap is not None,
        answer_lead="" if thinking else answer_lead,
        thinking=thinking,
        item_separator=item,
        key_separator=key,
    )


def shorten(text: str, limit: int = 60) -> str:
    """A piece of what the model wrote, quoted, cut to what fits into a sentence."""
    return repr(text if len(text) <= limit else text[: limit - 3] + "...")


def _spots(text: str, call: ToolCall) -> list[tuple[int, int, Hole]]:
    """Where name, arguments and id (when it is printed) of a call stand: (begin, end, hole), in order."""
    first_key = next(iter(call.arguments))
    found = re.search(r'\{\s*"' + first_key + '"', text)
    if found is None or call.name not in text:
        raise ContractError(
            f"the chat template writes no JSON arguments into a tool call: {shorten(text, 120)}",
            hint="use a template that writes a call's name and its arguments as a JSON object",
        )
    _, end = json.JSONDecoder().raw_decode(text, found.start())
    spots: list[tuple[int, int, Hole]] = [(found.start(), end, "arguments")]
    wanted: tuple[tuple[Hole, str], ...] = (("name", call.name), ("id", call.id or ""))
    spots += [(text.index(value), text.index(value) + len(value), hole) for hole, value in wanted if value and value in text]
    return sorted(spots)


def _common_beginning(a: str, b: str) -> str:
    return a[: next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))]


def _try(turn_text: TurnText, message: Message) -> str | None:
    try:
        return turn_text(message)
    except ContractError:
        return None


def _gap(turn_text: TurnText, one: str) -> str | None:
    """What stands between text and calls; None where the template does not print both."""
    text = _try(turn_text, Message("assistant", _ANSWER, (PROBE_CALL,)))
    if text is None or _ANSWER not in text or not text.endswith(one):
        return None
    return text[text.index(_ANSWER) + len(_ANSWER) : len(text) - len(one)]


def _thinking(turn_text: TurnText) -> tuple[str, str] | None:
    text = _try(turn_text, Message("assistant", _ANSWER, reasoning=_REASONING))
    if text is None or _REASONING not in text:
        return None
    before, _, after = text.partition(_REASONING)
    return (before, after[: after.index(_ANSWER)]) if before.strip() and after.index(_ANSWER) else None


def _separators(text: str) -> tuple[str, str]:
    """Between items and between key and value, as the template's JSON has them."""
    found = re.search(r'"second_key"(\s*:\s*)"second value"(\s*,\s*)"third_key"', text)
    return (found[2], found[1]) if found else (", ", ": ")
