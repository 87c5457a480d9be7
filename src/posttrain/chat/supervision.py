"""Which characters of a rendering the model has to produce: derived from the template by rendering it, never guessed.

A turn's span begins where its generation-time prompt ends and ends with its end-of-turn token. Both ends come from renderings of the
same template: ``prompt = T(messages[:i], add_generation_prompt)`` and ``through = T(messages[:i+1])``. Where ``prompt``, and
``through`` up to its end-of-turn token, are prefixes of the whole rendering, the span lies between their lengths, by definition.

Some templates rewrite earlier turns once others follow (Qwen and DeepSeek drop their reasoning, Mistral moves the tools behind them).
Such a turn is located in the whole rendering by :class:`_TurnMarks`, and what is supervised is what is really there. Where neither way
is exact, the row is refused.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

from posttrain.chat.alignment import Span
from posttrain.chat.rendering import PROBE_CHAT, PROBE_TOOL, TemplateRenderer
from posttrain.errors import ContractError, suggest
from posttrain.records import Demonstration, Message, ToolCall

MaskKind = Literal["assistant", "last", "completion"]
MASK_KINDS: tuple[MaskKind, ...] = ("assistant", "last", "completion")


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """How the template closes an assistant turn: the token the model stops at, and literal text it writes behind it."""

    token: str
    rest: str


def derive_turn_ends(renderer: TemplateRenderer, special: Sequence[str]) -> tuple[TurnEnd, ...]:
    """The closings of an answer and, where the template prints tool calls, of a calling turn. The answer's comes first.

    Derived by rendering a probe: the first special token behind an answer ends the turn. Raises ContractError when there is none:
    a model trained under such a template never learns to stop.
    """
    answer = "probe answer"
    text = renderer.render([PROBE_CHAT[0], Message("assistant", answer)])
    if answer not in text:
        raise ContractError("the chat template does not print the assistant's content", hint="give another template")
    tail = text[text.rindex(answer) + len(answer) :]
    found = _first(tail, special)
    if found is None:
        raise ContractError(
            f"the chat template writes no special token behind an assistant turn (it writes {tail!r}): "
            "a model trained under it never stops",
            hint="end the assistant turn with an end-of-turn or EOS token in the template",
        )
    ends = [TurnEnd(found, tail.split(found, 1)[1])]
    if renderer.call_form is not None:
        text = renderer.render(PROBE_CHAT, tools=(PROBE_TOOL,))
        tail = text[text.rindex("probe value") :]
        token = found if found in tail else _last(tail, special)
        if token is None:
            raise ContractError(
                f"the chat template writes no special token behind a tool call (it writes {tail!r})",
                hint="end the calling turn with an end-of-turn or EOS token in the template",
            )
        end = TurnEnd(token, tail.rsplit(token, 1)[1])
        if end not in ends:
            ends.append(end)
    return tuple(ends)


def _first(text: str, tokens: Sequence[str]) -> str | None:
    places = [(text.index(token), -len(token), token) for token in tokens if token in text]
    return min(places)[2] if places else None


def _last(text: str, tokens: Sequence[str]) -> str | None:
    places = [(text.rindex(token), len(token), token) for token in tokens if token in text]
    return max(places)[2] if places else None


def supervised_turns(row: Demonstration, mask: MaskKind) -> list[int]:
    """Positions of the assistant messages a mask kind supervises (see :meth:`ChatContract.supervise`).

    Turns of weight 0 and, where the data sets prompt and completion apart, those of the prompt are left out.
    """
    if mask not in MASK_KINDS:
        raise ContractError(f"unknown mask '{mask}'", hint=suggest(mask, MASK_KINDS))
    prompt = row.num_prompt_messages
    turns = [i for i, message in enumerate(row.messages) if message.role == "assistant" and i >= prompt]
    if mask == "last":
        turns = turns[-1:]
    elif mask == "completion" and not prompt:
        last_user = max((i for i, message in enumerate(row.messages) if message.role == "user"), default=-1)
        turns = [i for i in turns if i > last_user]
    return [i for i in turns if not row.messages[i].untrained]


class SpanFinder:
    """Finds the supervised spans of conversations under one template."""

    def __init__(self, renderer: TemplateRenderer, ends: Sequence[TurnEnd]) -> None:
        self._renderer = renderer
        self._ends = tuple(ends)

    def find(self, messages: Sequence[Message], tools: Sequence[Any], turns: Sequence[int]) -> tuple[str, list[Span]]:
        """The whole rendering and one character span per turn, in order. Raises ContractError where a span is not exact."""
        whole = self._renderer.render(messages, tools=tools)
        marks: _TurnMarks | None = None
        spans: list[Span] = []
        for turn in turns:
            last = turn == len(messages) - 1
            prompt = self._renderer.render(messages[:turn], tools=tools, add_generation_prompt=True)
            through = whole if last else self._renderer.render(messages[: turn + 1], tools=tools)
            end = self._turn_end(through, turn)
            if whole.startswith(prompt) and whole.startswith(through[:end]) and len(prompt) <= end:
                spans.append((len(prompt), end))
            elif last:
                raise _refusal(
                    turn, "its rendering does not begin with the prompt the model is given when it generates it", prompt, whole, _LAST
                )
            else:
                marks = marks or _TurnMarks(self._renderer, messages, tools, whole)
                spans.append(marks.locate(turn, [end.token for end in self._ends]))
        for (_, before), (after, _) in pairwise(spans):
            if after < before:
                raise ContractError("the supervised turns overlap in the rendering", hint="the template does not keep the turns in order")
        return whole, spans

    def turn_text(self, messages: Sequence[Message], tools: Sequence[Any]) -> str:
        """What the model generates for the last message, its end token left out."""
        whole, [(begin, end)] = self.find(messages, tools, [len(messages) - 1])
        text = whole[begin:end]
        return next(text.removesuffix(one.token) for one in self._ends if text.endswith(one.token))

    def following(self, messages: Sequence[Message], tools: Sequence[Any], turn: int) -> str:
        """What is written behind assistant turn ``turn``, with the generation prompt; it begins with the turn's end token.

        Raises ContractError where the template writes the history before that turn otherwise once others follow.
        """
        _, [(begin, end)] = self.find(messages, tools, [turn])
        whole = self._renderer.render(messages, tools=tools, add_generation_prompt=True)
        prompt = self._renderer.render(messages[:turn], tools=tools, add_generation_prompt=True)
        if begin != len(prompt) or not whole.startswith(prompt):
            raise _refusal(turn, "what stands before it changes once other messages follow", prompt, whole, _NEW_PROMPT, "continued")
        token = next(one.token for one in self._ends if whole.endswith(one.token, begin, end))
        return whole[end - len(token) :]

    def _turn_end(self, through: str, turn: int) -> int:
        for end in self._ends:
            if through.endswith(end.token + end.rest):
                return len(through) - len(end.rest)
        raise ContractError(
            f"turn {turn}: the rendering ends in {through[-40:]!r}, which is none of this template's turn ends "
            + ", ".join(repr(end.token + end.rest) for end in self._ends),
            hint="the template closes some assistant turns without an end-of-turn token; use another template",
        )


class _TurnMarks:
    """The whole rendering once more, with an invisible mark at the end of every message's strings, to see where each message went.

    Marks are private-use characters, one per message, set in front of trailing white space so that trimming does the same with and
    without them. With the marks removed the rendering must be the very same text; otherwise the template looks into its messages in a
    way that marks disturb, and the row is refused.
    """

    def __init__(self, renderer: TemplateRenderer, messages: Sequence[Message], tools: Sequence[Any], whole: str) -> None:
        self._renderer = renderer
        self._tools = tools
        self._marked = [_with_mark(message, _mark_of(i)) for i, message in enumerate(messages)]
        self._whole = whole
        pieces = _split_marks(renderer.render(self._marked, tools=tools))
        self._places: list[tuple[int, str]] = []  # (character of the whole rendering, mark)
        text = ""
        for piece in pieces:
            if piece and _FIRST_MARK <= piece <= _LAST_MARK:
                self._places.append((len(text), piece))
            else:
                text += piece
        if text != whole:
            raise _refusal(-1, "the template rewrites message texts, so they cannot be found again", whole, text)

    def locate(self, turn: int, end_tokens: Sequence[str]) -> Span:
        """The span of an earlier assistant turn as it stands in the whole rendering."""
        mark = _mark_of(turn)
        own = [k for k, (_, seen) in enumerate(self._places) if seen == mark]
        if not own or own != list(range(own[0], own[-1] + 1)):
            raise ContractError(f"turn {turn} is {'scattered over' if own else 'missing from'} the rendering", hint=_LAST_ONLY)
        prompt = _split_marks(self._renderer.render(self._marked[:turn], tools=self._tools, add_generation_prompt=True))
        before, before_mark = self._places[own[0] - 1] if own[0] else (0, "")
        opening = prompt[-1]
        if (prompt[-2] if len(prompt) > 1 else "") != before_mark or not self._whole.startswith(opening, before):
            raise _refusal(turn, "what stands before it is not what stands before it at generation time", opening, self._whole[before:])
        after = self._places[own[-1] + 1][0] if own[-1] + 1 < len(self._places) else len(self._whole)
        last = self._places[own[-1]][0]
        found = [place + len(token) for token in end_tokens if (place := self._whole.find(token, last, after)) >= 0]
        if not found or before + len(opening) > self._places[own[0]][0]:
            raise ContractError(f"turn {turn} has no end-of-turn token in the rendering", hint=_LAST_ONLY)
        return before + len(opening), min(found)


_FIRST_MARK, _LAST_MARK = "\U000f0000", "\U000ffffd"
_MARKS = re.compile(f"([{_FIRST_MARK}-{_LAST_MARK}])")
_LAST_ONLY = "supervise the last turn only (mask 'last'), or use a template that keeps assistant turns as they are"

_NEW_PROMPT = "begin a new prompt there, or use a template that keeps earlier turns as they are"
_LAST = "use a template whose answers begin with its generation prompt (one that keeps the reasoning it asks for)"


def _mark_of(turn: int) -> str:
    return chr(ord(_FIRST_MARK) + turn)


def _split_marks(text: str) -> list[str]:
    """Texts and marks in turn: text, mark, text, ..., text."""
    return _MARKS.split(text)


def _with_mark(message: Message, mark: str) -> Message:
    def put(value: Any) -> Any:
        if isinstance(value, str):
            body = value.rstrip()
            return body + mark + value[len(body) :] if body else value
        if isinstance(value, Mapping):
            return {key: put(item) for key, item in value.items()}
        return [put(item) for item in value] if isinstance(value, list | tuple) else value

    calls = tuple(ToolCall(call.name + mark, put(call.arguments), call.id) for call in message.tool_calls)
    return replace(message, content=put(message.content), tool_calls=calls)


def _refusal(turn: int, reason: str, expected: str, seen: str, hint: str = _LAST_ONLY, done: str = "masked exactly") -> ContractError:
    place = next((i for i, (a, b) in enumerate(zip(expected, seen, strict=False)) if a != b), min(len(expected), len(seen)))
    shown = slice(max(0, place - 20), place + 20)
    where = f"turn {turn}" if turn >= 0 else "the conversation"
    return ContractError(
        f"{where} cannot be {done}: {reason}. Expected {expected[shown]!r}, found {seen[shown]!r} (character {place})", hint=hint
    )
