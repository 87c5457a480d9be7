"""A pairwise judge: both orders asked, the reply read strictly, an order-dependent choice never counted as one."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from posttrain.config import content_hash
from posttrain.judges.constitution import Constitution
from posttrain.records import Choice, Comparison, GenerationRequest, Judgement, Message, SamplingSettings

if TYPE_CHECKING:
    from posttrain.generation import Generator

Status = Literal["decided", "tie", "inconsistent", "unread"]
WHOLE = re.compile(r"(verdict:\s*)?(1|2|tie)\.?", re.IGNORECASE)
TAG = re.compile(r"<(?=\s*/?\s*(?:conversation|answer_[12])|\|)", re.IGNORECASE)
ROLE = re.compile(r"^(\s*)(system|developer|user|assistant|tool)(\s*):", re.IGNORECASE | re.MULTILINE)


class Reply(NamedTuple):
    """What the judge wrote. ``cut``: it stopped at the length limit, so its last line may be half a line."""

    text: str
    cut: bool


Ask = Callable[[Sequence[GenerationRequest]], Sequence[Reply]]
"""Requests to replies, in order."""


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
        self._ask = ask or (lambda requests: [Reply(one.text, one.finish_reason == "length") for one in generator.generate(requests)])

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
        conversation = "\n".join(f"{message.role}: {_without_tags(message.content)}" for message in comparison.prompt)
        parts = {"conversation": conversation, "answer_1": _without_tags(_said(first)), "answer_2": _without_tags(_said(second))}
        blocks = [f"<{tag}>\n{text}\n</{tag}>" for tag, text in parts.items()]
        return "\n\n".join([self.constitution.text, *blocks])

    def _verdict(self, comparison: Comparison, forward: Reply, backward: Reply) -> Verdict:
        names: tuple[Mapping[str, Choice], ...] = ({"1": "a", "2": "b", "tie": "tie"}, {"1": "b", "2": "a", "tie": "tie"})
        rules = self.constitution
        read = [None if one.cut else read_verdict(one.text, ties=rules.ties, reasons=rules.reasons) for one in (forward, backward)]
        shown = tuple(None if said is None else sides[said] for said, sides in zip(read, names, strict=True))
        first, second = shown
        status: Status = "decided"
        choice = first
        if first is None or second is None:
            status, choice = "unread", None
        elif first != second:
            status, choice = "inconsistent", ("tie" if rules.on_inconsistent == "tie" else None)
        elif first == "tie":
            status = "tie"
        return Verdict(comparison, status, choice, (first, second), (forward.text, backward.text))


def read_verdict(reply: str, *, ties: bool, reasons: bool = False) -> Literal["1", "2", "tie"] | None:
    """``1``, ``2`` or ``tie`` when the last line of a reply says that and nothing else; None otherwise. No guess is ever made.

    ``reasons``: the judge was asked to write before its verdict, so the line must begin with ``Verdict:``; a 1 alone may be a list's.
    """
    lines = reply.strip().splitlines()
    found = WHOLE.fullmatch(lines[-1].strip()) if lines else None
    if found is None or (reasons and not found.group(1)):
        return None
    said = found.group(2).lower()
    if said == "tie":
        return "tie" if ties else None
    return "1" if said == "1" else "2"


def _said(answer: Sequence[Message]) -> str:
    calls = [f"[calls {call.name} {dict(call.arguments)}]" for message in answer for call in message.tool_calls]
    return "\n".join([*(message.content for message in answer if message.content), *calls])


def _without_tags(text: str) -> str:
    """The text with our own tags, a chat template's ``<|``, and lines that play a role disarmed.

    So an answer cannot close its block and speak to the judge, and no message can forge a turn of the conversation.
    """
    return ROLE.sub(r"\1\2\3&#58;", TAG.sub("&lt;", text))
