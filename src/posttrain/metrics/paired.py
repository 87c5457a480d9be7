"""Two versions on the same samples: the difference with its interval, and the non-inferiority test."""

import math
from collections.abc import Hashable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from posttrain.errors import ConfigError
from posttrain.metrics.intervals import Interval, critical_value, design_effect, mean_interval, wilson


def newcombe_difference(both: int, only_first: int, only_second: int, neither: int, *, confidence: float = 0.95) -> Interval:
    """Difference of two paired proportions, first minus second (Newcombe 1998, Statistics in Medicine 17:2635, method 10).

    The counts are the cells of the paired table: passed by both, by the first only, by the second only, by neither.
    """
    n = both + only_first + only_second + neither
    first, second = (both + only_first) / n, (both + only_second) / n
    low_1, high_1 = wilson(both + only_first, n, confidence=confidence)
    low_2, high_2 = wilson(both + only_second, n, confidence=confidence)
    margins = (both + only_first) * (only_second + neither) * (both + only_second) * (only_first + neither)
    cross = float(both * neither - only_first * only_second)
    if cross > 0:
        cross = max(cross - n / 2, 0.0)
    phi = cross / math.sqrt(margins) if margins else 0.0
    below = (first - low_1) ** 2 - 2 * phi * (first - low_1) * (high_2 - second) + (high_2 - second) ** 2
    above = (high_1 - first) ** 2 - 2 * phi * (high_1 - first) * (second - low_2) + (second - low_2) ** 2
    value = first - second
    return Interval(value, value - math.sqrt(max(below, 0)), value + math.sqrt(max(above, 0)), n, confidence, "newcombe")


def paired_difference(
    candidate: ArrayLike, baseline: ArrayLike, *, groups: Sequence[Hashable] | None = None, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Mean of candidate - baseline over the same samples ([sample] each), with its interval.

    Zeros and ones: the adjusted Wald interval of Agresti & Min (2005, Statistics in Medicine 24:729), half a pair added to each
    cell of the paired table, so that identical versions keep an interval of honest width. With groups the pairs are scaled to
    their effective number (design effect of the differences) and Student's t is used. Other values: bootstrap-t of the mean
    difference over groups.
    """
    first, second = np.asarray(candidate, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ConfigError(f"paired values must have one shape and not be empty, got {first.shape} and {second.shape}")
    differences = first - second
    if not (np.isin(first, (0.0, 1.0)).all() and np.isin(second, (0.0, 1.0)).all()):
        return mean_interval(differences, groups=groups, confidence=confidence, seed=seed)
    n = len(differences)
    effect, z, method = 1.0, critical_value(confidence), "agresti-min"
    if groups is not None and len(set(groups)) < n:
        effect = design_effect(differences, groups)
        z = critical_value(confidence, max(1, len(set(groups)) - 1))
        method += f", {len(set(groups))} groups"
    size = n / effect + 2
    better = float((differences > 0).sum()) / effect + 0.5
    worse = float((differences < 0).sum()) / effect + 0.5
    centre = (better - worse) / size
    error = math.sqrt(max(better + worse - (better - worse) ** 2 / size, 0)) / size
    return Interval(float(differences.mean()), max(-1.0, centre - z * error), min(1.0, centre + z * error), n, confidence, method)


Applied = tuple[ArrayLike, ArrayLike]
"""Values [sample] and whether the score applies to each."""


def ratio_difference(candidate: Applied, baseline: Applied, *, groups: Sequence[Hashable], confidence: float = 0.95) -> Interval:
    """Difference of two means that are over different samples of one suite, candidate minus baseline, with its interval.

    Each mean is a ratio R = sum(y a) / sum(a), a saying where the score applies. The interval is that of the mean of the linearised values
    (y1 - R1) a1 / mean(a1) - (y2 - R2) a2 / mean(a2) + R1 - R2 over groups (Taylor linearisation, Woodruff 1971, JASA 66:411).
    Raises ConfigError where one of them applies to nothing.
    """
    ratio, linear = [], []
    for values, applies in (candidate, baseline):
        value, where = np.asarray(values, dtype=np.float64), np.asarray(applies, dtype=np.float64)
        if not where.sum():
            raise ConfigError("a mean over no sample has no difference to another")
        ratio.append(float((value * where).sum() / where.sum()))
        linear.append((value - ratio[-1]) * where / where.mean())
    return mean_interval(linear[0] - linear[1] + ratio[0] - ratio[1], groups=groups, confidence=confidence)


Verdict = Literal["non_inferior", "inferior", "inconclusive"]


def non_inferiority(difference: Interval, margin: float) -> Verdict:
    """Is the candidate at most ``margin`` worse? Reads a two-sided interval, so at 95 % the test is one-sided at 2.5 %.

    ``non_inferior``: the lower bound is not below -margin. ``inferior``: that fails and the whole interval lies below zero, the
    candidate is worse for certain. ``inconclusive``: the samples can show neither. NaN is never non-inferior.
    """
    if not margin >= 0:
        raise ConfigError(f"margin {margin} is negative", hint="it is the loss you accept, such as 0.02")
    if difference.low >= -margin:
        return "non_inferior"
    return "inferior" if difference.high < 0 else "inconclusive"
