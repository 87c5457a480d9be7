"""``label_quality``: are these judgements good enough to train on, and whose are not?"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, is_dataclass
from itertools import combinations
from typing import Any

import numpy as np

from posttrain.data.comparisons import check_one_rubric
from posttrain.errors import DataError
from posttrain.feedback.annotators import Annotator, annotators
from posttrain.feedback.dimensions import DimensionAnswers, dimension_answers
from posttrain.feedback.effects import Effects, label_effects
from posttrain.feedback.labels import FEWEST, LabelTable, label_table
from posttrain.metrics.agreement import cohen_kappa, fleiss_kappa, krippendorff_alpha, percent_agreement
from posttrain.metrics.dawid_skene import MISSING
from posttrain.metrics.intervals import Interval
from posttrain.records import CHOICES, Comparison


@dataclass(frozen=True, slots=True)
class PairAgreement:
    """Two annotators on the ``shared`` comparisons both judged (at least one). ``kappa`` is None below :data:`FEWEST` of them."""

    first: str
    second: str
    shared: int
    agreement: Interval | None
    kappa: Interval | None


@dataclass(frozen=True, slots=True)
class LabelReport:
    """The figures of ``posttrain preferences report``. Intervals are over prompts; None where nothing can be said.

    ``ordinal`` is Krippendorff's alpha with a < tie < b, which forgives a tie more than a contrary choice.
    """

    rubric: str
    comparisons: int
    unjudged: int
    judgements: int
    prompts: int
    judged_twice: int
    unanimous: int
    ties: float
    gold_tasks: int
    agreement: Interval | None
    fleiss: Interval | None
    alpha: Interval | None
    ordinal: Interval | None
    pairs: tuple[PairAgreement, ...]
    annotators: tuple[Annotator, ...]
    effects: Effects
    dimensions: tuple[DimensionAnswers, ...]

    @property
    def uncalibrated(self) -> tuple[str, ...]:
        """Annotators at least one test singled out."""
        return tuple(one.name for one in self.annotators if one.uncalibrated)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; an unbounded end of an interval is null."""
        plain = _plain(self)
        assert isinstance(plain, dict)
        return {**plain, "uncalibrated": list(self.uncalibrated)}


def label_quality(comparisons: Sequence[Comparison], *, seed: int = 0) -> LabelReport:
    """Agreement, annotators, effects of place and length. Raises DataError on two rubric versions or no judgement at all."""
    rubric = check_one_rubric(comparisons)
    if not rubric:
        raise DataError(f"none of {len(comparisons)} comparisons has a judgement", hint="have them judged first")
    unjudged = sum(not one.judgements for one in comparisons)
    comparisons = [one for one in comparisons if one.judgements]
    table = label_table(comparisons)
    ratings = _ordered(table)
    groups = table.groups
    labelled = (table.latest != MISSING).astype(np.int64)
    shared, given = labelled.T @ labelled, labelled.sum(axis=1)
    votes = (table.latest[:, :, None] == np.arange(len(CHOICES))).sum(axis=1)
    said = table.codes[table.codes != MISSING]
    return LabelReport(
        rubric=rubric,
        comparisons=len(comparisons),
        unjudged=unjudged,
        judgements=len(said),
        prompts=len(set(groups)),
        judged_twice=int((given >= 2).sum()),
        unanimous=int(((given >= 2) & (votes.max(axis=1) == given)).sum()),
        ties=float((said == CHOICES.index("tie")).mean()),
        gold_tasks=int((table.gold != MISSING).sum()),
        agreement=percent_agreement(ratings, groups=groups, seed=seed),
        fleiss=fleiss_kappa(ratings, groups=groups, seed=seed),
        alpha=krippendorff_alpha(ratings, groups=groups, seed=seed),
        ordinal=krippendorff_alpha(ratings, level="ordinal", groups=groups, seed=seed),
        pairs=tuple(_pair(table, ratings, one, other, seed) for one, other in combinations(range(len(shared)), 2) if shared[one, other]),
        annotators=tuple(annotators(comparisons, table)),
        effects=label_effects(comparisons, seed=seed),
        dimensions=tuple(dimension_answers(comparisons, seed=seed)),
    )


def _ordered(table: LabelTable) -> np.typing.NDArray[np.float64]:
    """float64 [comparison, annotator] with a = -1, tie = 0, b = 1, NaN where there is no label."""
    value = np.array([-1.0, 1.0, 0.0, np.nan])  # a, b, tie, missing (-1 indexes the last)
    return np.asarray(value[table.latest])


def _pair(table: LabelTable, ratings: np.typing.NDArray[np.float64], one: int, other: int, seed: int) -> PairAgreement:
    both = ratings[:, [one, other]]
    shared = int((~np.isnan(both)).all(axis=1).sum())
    agreement = percent_agreement(both, groups=table.groups, seed=seed)
    kappa = cohen_kappa(both[:, 0], both[:, 1], groups=table.groups, seed=seed) if shared >= FEWEST else None
    return PairAgreement(table.annotators[one], table.annotators[other], shared, agreement, kappa)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(one) for name, one in asdict(value).items()}
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
