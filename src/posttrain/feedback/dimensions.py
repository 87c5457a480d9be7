"""The rubric's own questions: what was answered, and how far annotators agree on it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from posttrain.feedback.labels import judgements_of, prompt_group
from posttrain.metrics.agreement import krippendorff_alpha
from posttrain.metrics.intervals import Interval
from posttrain.records import Comparison

NOT_ASKED = ("constitution", "orders")
"""What a judge notes beside its label."""


@dataclass(frozen=True, slots=True)
class DimensionAnswers:
    """One dimension. ``shares`` of the answers, most frequent first; ``mean`` where they are numbers. ``alpha``: Krippendorff's (nominal,
    interval for numbers), None where no comparison has two answers or all are the same.
    """

    name: str
    answers: int
    shares: dict[str, float]
    mean: float | None
    alpha: Interval | None


def dimension_answers(comparisons: Sequence[Comparison], *, seed: int = 0) -> list[DimensionAnswers]:
    """Every dimension that occurs, by name."""
    names = sorted({name for _, one in judgements_of(comparisons) for name in one.dimensions} - set(NOT_ASKED))
    return [_answers(name, comparisons, seed) for name in names]


def _answers(name: str, comparisons: Sequence[Comparison], seed: int) -> DimensionAnswers:
    given = [
        (row, one.annotator, one.dimensions[name]) for row, c in enumerate(comparisons) for one in c.judgements if name in one.dimensions
    ]
    counts = Counter(str(value) for _, _, value in given)
    numeric = all(isinstance(value, int | float) for _, _, value in given)
    code = {value: float(number) for number, value in enumerate(counts)}
    column = {annotator: number for number, annotator in enumerate(sorted({annotator for _, annotator, _ in given}))}
    ratings = np.full((len(comparisons), len(column)), np.nan)
    for row, annotator, value in given:
        ratings[row, column[annotator]] = float(value) if numeric else code[str(value)]
    groups = [prompt_group(one) for one in comparisons]
    return DimensionAnswers(
        name=name,
        answers=len(given),
        shares={value: count / len(given) for value, count in counts.most_common()},
        mean=float(np.mean([float(value) for _, _, value in given])) if numeric else None,
        alpha=krippendorff_alpha(ratings, level="interval" if numeric else "nominal", groups=groups, seed=seed),
    )
