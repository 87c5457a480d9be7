"""A pairwise judge: both orders asked, the reply read strictly, an order-dependent choice never counted as one."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from posttrain.config import content_hash
from posttrain.judges.constitution import Constitution
from posttrain.records import Choice, Comparison, GenerationRequest, Judgement, Message, SamplingSettings

if TYPE_CHECKING:
    from posttrain.generation import Generator

Status = Literal["decided", "tie", "inconsistent", "unread"]
Ask = Callable[[Sequence[GenerationRequest]], Sequence[str]]
"""Requests to replies, in order."""
WHOLE = re.compile(r"(?:verdict:\s*)?(1|2|tie)\.?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judge on one comparison. ``shown``: its choice with a first, and with b first; None where the reply could not be read.

    ``choice`` is None where there is no label: a reply unread, or orders that disagree under ``on_inconsistent: abstain``.
    """

    comparison: Comparison
    status: Status
    choice: Choice | None
    shown: tuple[Choice | None, Choice | None]
    replies: tuple[str, str]


class PairwiseJudge:
    """A generator and a constitution. ``identity`` is what a label's worth depends on; ``name`` stands as the label's annotator."""

    def __init__(self, generator: "Generator", constitution: Constitution, *, name: str, ask: Ask | None = None) -> None:
        """``name``: the model's. ``ask``: how requests are answered, such as through a file that survives a kill (default: plainly)."""
        self.constitution = constitution
        self.identity: dict[str, Any] = {"generator": generator.identity, "constitution": constitution.hash}
        self.name = f"judge:{name}:{content_hash(self.identity)[:8]}"
        self._ask = ask or (lambda requests: [one.text for one in generator.generate(requests)])

    def judge(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """Two requests a comparison, all asked together."""
        requests = [request for number, one in enumerate(comparisons) for request in self.requests(number, one)]
        replies = list(self._ask(requests))
        return [self._verdict(one, replies[2 * number], replies[2 * number + 1]) for number, one in enumerate(comparisons)]

    def label(self, verdicts: Sequence[Verdict], *, created: str) -> list[Comparison]:
        """Every comparison with the judge's judgement added; unlabelled ones as they were.

        The judgement names judge, rubric and constitution. ``created``: ISO 8601 time.
        """
        return [self._labelled(one, created) for one in verdicts]

    def _labelled(self, verdict: Verdict, created: str) -> Comparison:
        if verdict.choice is None:
            return verdict.comparison
        judgement = Judgement(
            annotator=self.name,
            choice=verdict.choice,
            rubric=self.constitution.rubric,
            dimensions={
                "constitution": f"{self.constitution.name}-{self.constitution.version}:{self.constitution.hash[:16]}",
                "orders": verdict.status,
            },
            created=created,
        )
        return replace(verdict.comparison, judgements=(*verdict.comparison.judgements, judgement))

    def requests(self, number: int, comparison: Comparison) -> list[GenerationRequest]:
        """What is asked about a comparison: a first, then b first."""
        sampling = SamplingSettings(max_new_tokens=self.constitution.max_new_tokens)
        orders = (("ab", comparison.a, comparison.b), ("ba", comparison.b, comparison.a))
        return [
            GenerationRequest((Message("user", self._prompt(comparison, first, second)),), sampling=sampling, id=f"{number}:{name}")
            for name, first, second in orders
        ]

    def _prompt(self, comparison: Comparison, first: Sequence[Message], second: Sequence[Message]) -> str:
        conversation = "\n".join(f"{message.role}: {message.content}" for message in comparison.prompt)
        parts = {"conversation": conversation, "answer_1": _said(first), "answer_2": _said(second)}
        blocks = [f"<{tag}>\n{_without_tags(text)}\n</{tag}>" for tag, text in parts.items()]
        return "\n\n".join([self.constitution.text, *blocks])

    def _verdict(self, comparison: Comparison, forward: str, backward: str) -> Verdict:
        names: tuple[Mapping[str, Choice], ...] = ({"1": "a", "2": "b", "tie": "tie"}, {"1": "b", "2": "a", "tie": "tie"})
        read = [read_verdict(reply, ties=self.constitution.ties) for reply in (forward, backward)]
        shown = tuple(None if said is None else sides[said] for said, sides in zip(read, names, strict=True))
        first, second = shown
        status: Status = "decided"
        choice = first
        if first is None or second is None:
            status, choice = "unread", None
        elif first != second:
            status, choice = "inconsistent", ("tie" if self.constitution.on_inconsistent == "tie" else None)
        elif first == "tie":
            status = "tie"
        return Verdict(comparison, status, choice, (first, second), (forward, backward))


def read_verdict(reply: str, *, ties: bool) -> Literal["1", "2", "tie"] | None:
    """``1``, ``2`` or ``tie`` when the last line of a reply says that and nothing else; None otherwise. No guess is ever made."""
    lines = reply.strip().splitlines()
    found = WHOLE.fullmatch(lines[-1].strip()) if lines else None
    said = found.group(1).lower() if found else None
    if said == "tie":
        return "tie" if ties else None
    return "1" if said == "1" else "2" if said == "2" else None


def _said(answer: Sequence[Message]) -> str:
    calls = [f"[calls {call.name} {dict(call.arguments)}]" for message in answer for call in message.tool_calls]
    return "\n".join([*(message.content for message in answer if message.content), *calls])


def _without_tags(text: str) -> str:
    """The text with our own tags disarmed, so that an answer cannot close its block and speak to the judge."""
    return re.sub(r"</?(conversation|answer_[12])>", lambda found: found.group().replace("<", "&lt;"), text)
