"""What a training set is made of: by source, shape and task, with refusals, lengths, concentration, repetition and density."""

import re
import zlib
from array import array
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import numpy as np

from posttrain.data.words import sides, words
from posttrain.records import Demonstration, PreferencePair, Record, UnpairedLabel

REPEAT = 4  # words of a run counted for repetition
DENSITY_BYTES = 1 << 20  # text of a group that is compressed
OPENING = 240  # characters of an answer in which a refusal is looked for
DECLINED = (
    "help|assist|provide|support|condone|comply|fulfil|fulfill|answer|give|share|create|write|engage|discuss|recommend|suggest|"
    "encourage|guide|do that|have access"
)
REFUSAL = re.compile(
    r"\bi['’]?m (?:\w+ )?(?:sorry,? (?:but|that|for|i\b)|unable to|not able to|not comfortable)|"
    r"\bi am (?:\w+ )?(?:sorry,? (?:but|that|for|i\b)|unable to|not able to|not comfortable)|"
    rf"\bi (?:\w+ )?(?:can['’]?t|cannot|can not|won['’]?t|will not) (?:\w+ )?(?:{DECLINED})|"
    r"\bi must (?:\w+ )?(?:decline|refuse)|\bit['’]?s? (?:is )?not (?:appropriate|ethical|acceptable|within my)|"
    r"\b(?:against|violates?) (?:my|our|the) (?:policy|policies|guidelines|programming)|\bapologi[sz]e,? but\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class GroupStatistics:
    """One group of records. Lengths in words; shares between 0 and 1.

    ``repetition``: share of the runs of four words in an answer that occurred earlier in that answer; ``same_answer``: share of the
    records whose whole answer an earlier record of the set gave; ``density``: compressed over plain size of the group's text (zlib,
    first MiB; plain English is near 0.4, templates and repeats come out lower); None without text.
    """

    records: int
    share: float
    prompt_words_p50: float
    completion_words_p50: float
    completion_words_p95: float
    completion_words_max: int
    words: int
    refusal_share: float
    repetition: float
    same_answer: float
    density: float | None


@dataclass(frozen=True, slots=True)
class MixtureReport:
    """The whole set, and its parts by source, shape and task (``metadata["task"]``, "" where none is said).

    ``source_concentration``: Herfindahl index over sources, the sum of squared shares: 1 means a single source, 1/n means n equal
    ones. ``effective_sources`` is its inverse.
    """

    total: GroupStatistics
    sources: dict[str, GroupStatistics]
    shapes: dict[str, GroupStatistics]
    tasks: dict[str, GroupStatistics]
    source_concentration: float
    effective_sources: float

    def to_dict(self) -> dict[str, object]:
        """Plain JSON types, for the report and the lineage."""
        return asdict(self)


def mixture_report(records: Iterable[Record], *, is_refusal: Callable[[str], bool] | None = None) -> MixtureReport:
    """One pass over records. Memory: some bytes a record and up to 1 MiB of text a group."""
    refuses = is_refusal or looks_like_refusal
    total = _Group()
    sources: dict[str, _Group] = {}
    shapes: dict[str, _Group] = {}
    tasks: dict[str, _Group] = {}
    answers: set[int] = set()
    for record in records:
        asked, answered = sides(record)
        answer_words = words(answered)
        same = hash(answered) in answers
        answers.add(hash(answered))
        row = _Row(
            f"{asked}\n{answered}\n", len(words(asked)), len(answer_words), refuses(preferred_answer(record)), same, *_repeats(answer_words)
        )
        for group in (
            total,
            sources.setdefault(record.source, _Group()),
            shapes.setdefault(shape_name(record), _Group()),
            tasks.setdefault(str(record.metadata.get("task", "")), _Group()),
        ):
            group.add(row)
    count = len(total.completion)
    squares = sum((len(group.completion) / max(count, 1)) ** 2 for group in sources.values())
    return MixtureReport(
        total=total.statistics(count),
        sources=_statistics(sources, count),
        shapes=_statistics(shapes, count),
        tasks=_statistics(tasks, count),
        source_concentration=squares,
        effective_sources=1 / squares if squares else 0.0,
    )


def _statistics(groups: dict[str, "_Group"], count: int) -> dict[str, GroupStatistics]:
    return {name: group.statistics(count) for name, group in sorted(groups.items())}


def shape_name(record: Record) -> str:
    """single_turn, multi_turn or tool_trajectory for a demonstration; the record's kind for the others."""
    if not isinstance(record, Demonstration):
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(record).__name__).lower()
    if any(message.tool_calls for message in record.messages):
        return "tool_trajectory"
    return "multi_turn" if sum(message.role == "user" for message in record.messages) > 1 else "single_turn"


def preferred_answer(record: Record) -> str:
    """The answer a model would learn to give: the last turn, the chosen side; '' where the record has none or calls it bad."""
    if isinstance(record, Demonstration):
        return record.messages[-1].content
    if isinstance(record, PreferencePair):
        return record.chosen[-1].content
    if isinstance(record, UnpairedLabel) and record.label:
        return record.completion[-1].content
    return ""


def looks_like_refusal(answer: str) -> bool:
    """Whether an English answer begins by declining. A rule over its first sentences: for a share, not for judging a model."""
    return REFUSAL.search(answer[:OPENING]) is not None


def _repeats(answer: list[str]) -> tuple[int, int]:
    """(runs of four words, those that occurred before in the same answer)."""
    runs = list(zip(*(answer[offset:] for offset in range(REPEAT)), strict=False))
    return len(runs), len(runs) - len(set(runs))


@dataclass(frozen=True, slots=True)
class _Row:
    text: str
    prompt_words: int
    completion_words: int
    refuses: bool
    same_answer: bool
    runs: int
    repeated: int


class _Group:
    """Running sums of one group."""

    def __init__(self) -> None:
        self.prompt = array("I")
        self.completion = array("I")
        self.refusals = self.same = self.runs = self.repeated = 0
        self.plain = self.packed = 0
        self.packer = zlib.compressobj(6)

    def add(self, row: _Row) -> None:
        self.prompt.append(row.prompt_words)
        self.completion.append(row.completion_words)
        self.refusals += row.refuses
        self.same += row.same_answer
        self.runs += row.runs
        self.repeated += row.repeated
        if self.plain < DENSITY_BYTES:
            raw = row.text.encode("utf-8", "replace")
            self.plain += len(raw)
            self.packed += len(self.packer.compress(raw))

    def statistics(self, total: int) -> GroupStatistics:
        count = len(self.completion)
        prompt, completion = np.array(self.prompt or [0]), np.array(self.completion or [0])
        self.packed += len(self.packer.flush())
        return GroupStatistics(
            records=count,
            share=count / max(total, 1),
            prompt_words_p50=float(np.median(prompt)),
            completion_words_p50=float(np.median(completion)),
            completion_words_p95=float(np.percentile(completion, 95)),
            completion_words_max=int(completion.max()),
            words=int(prompt.sum() + completion.sum()),
            refusal_share=self.refusals / max(count, 1),
            repetition=self.repeated / max(self.runs, 1),
            same_answer=self.same / max(count, 1),
            density=self.packed / self.plain if self.plain else None,
        )
