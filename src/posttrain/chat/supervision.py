"""Which characters of a rendering the model has to produce: derived from the template by rendering it, never guessed.

A turn's span begins where its generation-time prompt ends and ends with its end-of-turn token. Both ends come from renderings of the
same template: ``prompt = T(messages[:i], add_generation_prompt)`` and ``through = T(messages[:i+1])``. A span is exact because it is
checked: ``prompt`` must be a prefix of the whole rendering, and so must ``through`` up to its end-of-turn token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from posttrain.chat.rendering import PROBE_CHAT, PROBE_TOOL, TemplateRenderer
from posttrain.errors import ContractError, suggest
from posttrain.records import Message

MaskKind = Literal["assistant", "last", "completion"]
MASK_KINDS: tuple[MaskKind, ...] = ("assistant", "last", "completion")

Span = tuple[int, int]


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


def supervised_turns(messages: Sequence[Message], mask: MaskKind) -> list[int]:
    """Positions of the assistant messages a mask kind supervises (see :meth:`ChatContract.supervise`)."""
    if mask not in MASK_KINDS:
        raise ContractError(f"unknown mask '{mask}'", hint=suggest(mask, MASK_KINDS))
    turns = [i for i, message in enumerate(messages) if message.role == "assistant"]
    if mask == "last":
        return turns[-1:]
    if mask == "completion":
        last_user = max((i for i, message in enumerate(messages) if message.role == "user"), default=-1)
        return [i for i in turns if i > last_user]
    return turns


class SpanFinder:
    """Finds the supervised spans of conversations under one template."""

    def __init__(self, renderer: TemplateRenderer, ends: Sequence[TurnEnd]) -> None:
        self._renderer = renderer
        self._ends = tuple(ends)

    def find(self, messages: Sequence[Message], tools: Sequence[Any], turns: Sequence[int]) -> tuple[str, list[Span]]:
        """The whole rendering and one character span per turn, in order. Raises ContractError where a span is not exact."""
        whole = self._renderer.render(messages, tools=tools)
        spans: list[Span] = []
        for turn in turns:
            prompt = self._renderer.render(messages[:turn], tools=tools, add_generation_prompt=True)
            last = turn == len(messages) - 1
            through = whole if last else self._renderer.render(messages[: turn + 1], tools=tools)
            end = self._turn_end(through, turn)
            if not whole.startswith(prompt):
                raise _refusal(turn, "the prompt the model sees when it generates this turn is not how the rendering begins", prompt, whole)
            if not whole.startswith(through[:end]):
                raise _refusal(turn, "the template rewrites this turn once others follow", through[:end], whole)
            spans.append((len(prompt), end))
        return whole, spans

    def _turn_end(self, through: str, turn: int) -> int:
        for end in self._ends:
            if through.endswith(end.token + end.rest):
                return len(through) - len(end.rest)
        raise ContractError(
            f"turn {turn}: the rendering ends in {through[-40:]!r}, which is none of this template's turn ends "
            + ", ".join(repr(end.token + end.rest) for end in self._ends),
            hint="the template closes some assistant turns without an end-of-turn token; use another template",
        )


def _refusal(turn: int, reason: str, expected: str, whole: str) -> ContractError:
    place = next((i for i, (a, b) in enumerate(zip(expected, whole, strict=False)) if a != b), min(len(expected), len(whole)))
    return ContractError(
        f"turn {turn} cannot be masked exactly: {reason}. "
        f"Expected {expected[max(0, place - 20) : place + 20]!r}, "
        f"the rendering has {whole[max(0, place - 20) : place + 20]!r} (character {place})",
        hint="supervise the last turn only, or use a template that keeps assistant turns as they are",
    )


def mask_tokens(encoding: Encoding, spans: Sequence[Span], added_ids: frozenset[int], backend: Tokenizer) -> NDArray[np.bool_]:
    """bool [token]: True for tokens that begin inside a span.

    A token straddling the edge of a span would be half prompt, half answer. An added token may (some swallow neighbouring white
    space): it belongs to the side it begins on, and the model sees the same id when it generates. Any other straddling token is
    refused, because the generation-time prompt would end in a different token.
    """
    offsets = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)
    starts, stops = offsets[:, 0], offsets[:, 1]
    mask = np.zeros(len(offsets), dtype=np.bool_)
    for begin, end in spans:
        first, after = np.searchsorted(starts, [begin, end])
        mask[first:after] = True
        for edge, place in ((begin, int(first) - 1), (end, int(after) - 1)):
            if place >= 0 and starts[place] < edge < stops[place] and encoding.ids[place] not in added_ids:
                token = backend.decode([encoding.ids[place]], skip_special_tokens=False)
                raise ContractError(
                    f"the token {token!r} (id {encoding.ids[place]}, position {place}) lies across the edge of an assistant turn: when the "
                    "model generates, the prompt ends in another token",
                    hint="strip white space at the start of the assistant's content",
                )
    return mask
