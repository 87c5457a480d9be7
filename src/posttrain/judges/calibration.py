"""How a judge compares with people, and the floor it must reach before its labels may be used."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from posttrain.data.comparisons import latest_judgements
from posttrain.errors import CheckFailed, DataError
from posttrain.judges.constitution import Constitution, Floor
from posttrain.judges.pairwise import PairwiseJudge, Verdict
from posttrain.metrics.agreement import cohen_kappa
from posttrain.metrics.intervals import Interval, proportion_interval
from posttrain.records import CHOICES, Choice, Comparison, Judgement


@dataclass(frozen=True, slots=True)
class Calibration:
    """A judge against human labels. Intervals are over prompts; None where nothing can be said.

    ``coverage``: comparisons with a label. ``first_chosen``: the answer shown first chosen, over both orders (.5: no position bias).
    ``inconsistent``: orders that disagree. ``longer_chosen``: the longer answer chosen, and ``human_longer_chosen`` beside it;
    ``longer_against_people``: the longer answer chosen where judge and people choose different answers (.5: no length bias).
    """

    judge: str
    constitution: str
    rubric: str
    human_rubric: str
    comparisons: int
    labelled: int
    unread: int
    kappa: Interval | None
    accuracy: Interval | None
    coverage: Interval
    first_chosen: Interval | None
    inconsistent: Interval | None
    longer_chosen: Interval | None
    human_longer_chosen: Interval | None
    longer_against_people: Interval | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; an unbounded end of an interval is null."""
        plain = asdict(self)
        for figure in plain.values():
            if isinstance(figure, dict):
                figure.update({end: None for end in ("low", "high") if not math.isfinite(figure[end])})
        return plain


def calibrate(judge: PairwiseJudge, human: Sequence[Comparison]) -> tuple[Calibration, list[Verdict]]:
    """Ask the judge about comparisons that people judged, and compare. The human choice is what most people chose; if none leads, a tie.

    The judge sees no human judgement. Raises DataError when there is no human judgement, or human judgements of several rubrics.
    """
    rubric = human_rubric(human)
    labelled = [one for one in human if one.gold is not None or _by_people(one)]
    if not labelled:
        raise DataError("no comparison has a human judgement to hold the judge against", hint="give --human a file people judged")
    verdicts = judge.judge(labelled)
    return compare(judge, verdicts, human_rubric=rubric), verdicts


def compare(judge: PairwiseJudge, verdicts: Sequence[Verdict], *, human_rubric: str = "") -> Calibration:
    """The figures of verdicts that are there already."""
    groups = [_prompt(one.comparison) for one in verdicts]
    people = [human_choice(one.comparison) for one in verdicts]
    said = [one.choice for one in verdicts]
    rows = [(mine, theirs, one, group) for mine, theirs, one, group in zip(said, people, verdicts, groups, strict=True) if mine]
    codes = [(CHOICES.index(mine), CHOICES.index(theirs)) for mine, theirs, _, _ in rows if mine]
    labelled_groups = [group for *_, group in rows]
    first = [(choice == side, group) for one, group in zip(verdicts, groups, strict=True) for choice, side in _shown_first(one)]
    both = [(one.status == "inconsistent", group) for one, group in zip(verdicts, groups, strict=True) if one.status != "unread"]
    against = [(mine, one, group) for mine, theirs, one, group in rows if mine != theirs and "tie" not in (mine, theirs)]
    return Calibration(
        judge=judge.name,
        constitution=f"{judge.constitution.name}-{judge.constitution.version}:{judge.constitution.hash[:16]}",
        rubric=judge.constitution.rubric,
        human_rubric=human_rubric,
        comparisons=len(verdicts),
        labelled=len(rows),
        unread=sum(one.status == "unread" for one in verdicts),
        kappa=cohen_kappa([mine for mine, _ in codes], [theirs for _, theirs in codes], groups=labelled_groups) if rows else None,
        accuracy=_share([(mine == theirs, group) for mine, theirs, _, group in rows]),
        coverage=proportion_interval(np.array([choice is not None for choice in said], dtype=np.float64), groups=groups),
        first_chosen=_share(first),
        inconsistent=_share(both),
        longer_chosen=_longer([(mine, one, group) for mine, _, one, group in rows]),
        human_longer_chosen=_longer([(theirs, one, group) for _, theirs, one, group in rows]),
        longer_against_people=_longer(against),
    )


def check_floor(found: Calibration, floor: Floor) -> None:
    """Raise CheckFailed, with every figure and its floor, unless the judge reaches all of them."""
    low = []
    if found.comparisons < floor.comparisons:
        low.append(f"{found.comparisons} human-labelled comparisons, {floor.comparisons} are needed")
    figures: dict[str, tuple[Interval | None, float]] = {
        "kappa": (found.kappa, floor.kappa),
        "accuracy": (found.accuracy, floor.accuracy),
        "coverage": (found.coverage, floor.coverage),
    }
    for name, (figure, least) in figures.items():
        bounded = figure is not None and math.isfinite(figure.low)  # one prompt says nothing of the next
        reached = None if figure is None else figure.value if floor.bound == "value" and bounded else figure.low
        if reached is None or reached < least:
            seen = "cannot be computed" if figure is None else f"is {figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]"
            low.append(f"{name} {seen}; the {'lower end' if floor.bound == 'low' else 'figure'} must reach {least:g}")
    if low:
        raise CheckFailed(
            f"{found.judge} is below its floor against people, so none of its labels is written:\n  " + "\n  ".join(low),
            hint="take a better judge, mend the constitution under a new version, or have people label; more human labels make it surer",
        )


def record(constitution: Constitution) -> dict[str, str]:
    """The lineage content of a constitution: everything in the file, floor and rubric too, is fixed by name and version."""
    text = json.dumps(constitution.dump(), indent=1, sort_keys=True, ensure_ascii=False)
    return {"name": constitution.name, "version": constitution.version, "text": text, "hash": constitution.hash}


def human_rubric(human: Sequence[Comparison]) -> str:
    """The rubric version people judged under, '' where there is none (gold answers alone). Two versions raise DataError."""
    rubrics = sorted({one.rubric for comparison in human for one in _by_people(comparison)})
    if len(rubrics) > 1:
        raise DataError(f"human judgements of {len(rubrics)} rubrics: {', '.join(rubrics)}", hint="keep one rubric version")
    return rubrics[0] if rubrics else ""


def human_choice(comparison: Comparison) -> Choice:
    """The gold answer, else what most people chose, each by their latest judgement; a tie where no choice leads."""
    if comparison.gold:
        return comparison.gold
    votes = Counter(one.choice for one in _by_people(comparison)).most_common(2)
    return "tie" if len(votes) > 1 and votes[0][1] == votes[1][1] else votes[0][0]


def _by_people(comparison: Comparison) -> list[Judgement]:
    return [one for one in latest_judgements(comparison) if not one.annotator.startswith("judge:")]


def _prompt(comparison: Comparison) -> str:
    return "\0".join(f"{message.role}:{message.content}" for message in comparison.prompt)


def _shown_first(verdict: Verdict) -> list[tuple[Choice, Choice]]:
    """(choice, side shown first) of each reply that chose an answer."""
    sides: tuple[Choice, Choice] = ("a", "b")
    return [(choice, side) for choice, side in zip(verdict.shown, sides, strict=True) if choice in ("a", "b")]


def _longer(rows: Sequence[tuple[Choice | None, Verdict, str]]) -> Interval | None:
    """Share of choices of an answer that fall on the longer one."""
    values = []
    for choice, verdict, group in rows:
        a, b = (sum(len(message.content) for message in side) for side in (verdict.comparison.a, verdict.comparison.b))
        if choice in ("a", "b") and a != b:
            values.append((choice == ("a" if a > b else "b"), group))
    return _share(values)


def _share(values: Sequence[tuple[bool, str]]) -> Interval | None:
    if not values:
        return None
    return proportion_interval(np.array([one for one, _ in values], dtype=np.float64), groups=[group for _, group in values])
