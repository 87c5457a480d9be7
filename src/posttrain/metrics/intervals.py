"""Confidence intervals of a single figure: proportions, means and percentiles, with or without groups.

Values are plain floats; a *group* is anything whose members rise and fall together (the questions about one report, the samples
of one case). Ignoring groups makes intervals too narrow; each function here takes them.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posttrain.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with the interval that covers it at ``confidence``. ``n`` is the number of values, ``method`` how it was formed."""

    value: float
    low: float
    high: float
    n: int
    confidence: float
    method: str


def critical_value(confidence: float, degrees: float | None = None) -> float:
    """Two-sided quantile: of the normal distribution, or of Student's t with ``degrees`` of freedom."""
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence {confidence} is not between 0 and 1", hint="0.95 is usual")
    tail = 0.5 + confidence / 2
    if degrees is None:
        return NormalDist().inv_cdf(tail)
    from scipy.special import stdtrit

    return float(stdtrit(degrees, tail))


def wilson(successes: float, n: float, *, confidence: float = 0.95, z: float | None = None) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927, JASA 22). ``n`` may be an effective, fractional size; n > 0."""
    if n <= 0 or not 0 <= successes <= n:
        raise ConfigError(f"a proportion needs 0 <= successes <= n and n > 0, got {successes} of {n}")
    z = critical_value(confidence) if z is None else z
    rate = successes / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def group_codes(groups: Sequence[Hashable]) -> NDArray[np.int64]:
    """int64 [value]: a number per group, in order of first appearance."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups], dtype=np.int64)


def design_effect(values: ArrayLike, groups: Sequence[Hashable]) -> float:
    """How much groups inflate the variance of a mean: cluster-robust variance over simple-random-sample variance.

    Kish (1965) and Rao & Scott (1992, Biometrics 48), linearised for groups of unequal size. Values that are all equal cannot tell how
    alike the members of a group are, so each group counts as one draw (sum of squared sizes over n: the size, where all have one).
    Never below 1.0, so groups cannot make an interval narrower.
    """
    array = np.asarray(values, dtype=np.float64)
    codes = group_codes(groups)
    num_groups = int(codes.max()) + 1 if len(codes) else 0
    residuals = array - array.mean()
    simple = float((residuals**2).sum()) / (len(array) ** 2)
    if num_groups < 2 or simple == 0:
        return _full_effect(codes)
    totals = np.bincount(codes, weights=residuals, minlength=num_groups)
    clustered = float((totals**2).sum()) * num_groups / (num_groups - 1) / len(array) ** 2
    return max(1.0, clustered / simple)


def effective_size(values: ArrayLike, groups: Sequence[Hashable]) -> float:
    """How many independent draws values in groups are worth: n over a cautious design effect.

    How alike the members of a group are shows only in groups that hold a value other than the commonest. The fewer of these there are,
    the more the estimate is drawn, with the weight of half such a group, to what it is when all members of a group are equal.
    """
    array, codes = np.asarray(values, dtype=np.float64), group_codes(groups)
    found, counts = np.unique(array, return_counts=True)
    num_telling = len(np.unique(codes[array != found[counts.argmax()]]))
    estimate, full = design_effect(array, groups), _full_effect(codes)
    return len(array) / max(estimate, (num_telling * estimate + 0.5 * full) / (num_telling + 0.5))


def _full_effect(codes: NDArray[np.int64]) -> float:
    """The design effect when the members of each group are all equal."""
    return float((np.bincount(codes) ** 2).sum()) / len(codes) if len(codes) else 1.0


def proportion_interval(values: ArrayLike, *, groups: Sequence[Hashable] | None = None, confidence: float = 0.95) -> Interval:
    """Interval of the share of ones in ``values`` (0/1, [value]).

    Without groups (or with groups of one) Wilson's interval. With groups, Wilson's interval at the :func:`effective_size` and
    Student's t with (groups - 1) degrees of freedom (Korn & Graubard 1998, Survey Methodology 24).
    """
    array = _values(values)
    if not np.isin(array, (0.0, 1.0)).all():
        raise ConfigError("a proportion is made of zeros and ones; other values have a mean", hint="use mean_interval")
    n = len(array)
    if not _grouped(groups, n):
        low, high = wilson(float(array.sum()), n, confidence=confidence)
        return Interval(float(array.mean()), low, high, n, confidence, "wilson")
    assert groups is not None
    num_groups = len(set(groups))
    size = effective_size(array, groups)
    z = critical_value(confidence, max(1, num_groups - 1))
    low, high = wilson(min(float(array.mean()) * size, size), size, z=z)
    return Interval(float(array.mean()), low, high, n, confidence, f"wilson, {num_groups} groups")


def mean_interval(values: ArrayLike, *, groups: Sequence[Hashable] | None = None, confidence: float = 0.95, seed: int = 0) -> Interval:
    """Bootstrap-t interval of a mean (Efron & Tibshirani 1993, ch. 12), resampling whole groups where there are any.

    The studentised bootstrap keeps its coverage on skewed values and few groups, where the percentile bootstrap is too narrow.
    Two groups cannot be resampled: Student's t with one degree of freedom. Fewer than two give an interval of no width only when all
    values are equal, and an infinite one otherwise.
    """
    array = _values(values)
    codes = group_codes(groups) if _grouped(groups, len(array)) and groups is not None else np.arange(len(array))
    num_groups = int(codes.max()) + 1
    mean = float(array.mean())
    method = f"bootstrap-t, {num_groups} groups" if num_groups < len(array) else "bootstrap-t"
    if float(np.ptp(array)) == 0:
        return Interval(mean, mean, mean, len(array), confidence, method)
    if num_groups < 2:
        return Interval(mean, -math.inf, math.inf, len(array), confidence, method)
    sums = np.bincount(codes, weights=array, minlength=num_groups).astype(np.float64)
    sizes = np.bincount(codes, minlength=num_groups).astype(np.float64)
    error = _ratio_error(sums[None], sizes[None])[0]
    if error <= 1e-12 * float(np.abs(array).max()):  # groups of equal means say nothing of how means spread: each value for itself
        return mean_interval(array, confidence=confidence, seed=seed)
    if num_groups == 2:  # every resample that varies has the sample's own mean: the bootstrap would give no width
        half = critical_value(confidence, 1) * float(error)
        return Interval(mean, mean - half, mean + half, len(array), confidence, "student's t, 2 groups")
    draws = np.random.default_rng(seed).integers(0, num_groups, size=(_NUM_BOOTSTRAP, num_groups))
    drawn_sums, drawn_sizes = sums[draws], sizes[draws]
    drawn_means = drawn_sums.sum(axis=1) / drawn_sizes.sum(axis=1)
    drawn_errors = _ratio_error(drawn_sums, drawn_sizes)
    usable = drawn_errors > 1e-9 * error
    pivots = (drawn_means[usable] - mean) / drawn_errors[usable]
    tail = (1 - confidence) / 2
    low_pivot, high_pivot = np.quantile(pivots, [tail, 1 - tail])
    return Interval(mean, mean - float(high_pivot) * error, mean - float(low_pivot) * error, len(array), confidence, method)


_NUM_BOOTSTRAP = 2000


def _ratio_error(sums: NDArray[np.float64], sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Linearised standard error of sum(sums) / sum(sizes); both [draw, group], result [draw]."""
    num_groups = sums.shape[1]
    means = sums.sum(axis=1, keepdims=True) / sizes.sum(axis=1, keepdims=True)
    residuals = sums - means * sizes
    variance = (residuals**2).sum(axis=1) * num_groups / (num_groups - 1) / sizes.sum(axis=1) ** 2
    return np.asarray(np.sqrt(variance))


def percentile_interval(values: ArrayLike, percent: float, *, confidence: float = 0.95) -> Interval:
    """Distribution-free interval of a percentile from order statistics (Hahn & Meeker 1991, sec. 5.2).

    Where the sample is too small for a two-sided bound on one side (p95 needs 72 values at 95 %), that side is infinite.
    """
    from scipy.special import bdtr

    array = np.sort(_values(values))
    n, share = len(array), percent / 100
    if not 0 < share < 1:
        raise ConfigError(f"percentile {percent} is not between 0 and 100")
    tail = (1 - confidence) / 2
    below = bdtr(np.arange(n + 1, dtype=np.float64), n, share)  # P(at most k values lie below the true percentile), [k]
    lower = int(np.searchsorted(below, tail))
    upper = int(np.searchsorted(below, 1 - tail)) + 1
    low = float(array[lower - 1]) if lower >= 1 else -math.inf
    high = float(array[upper - 1]) if upper <= n else math.inf
    return Interval(float(np.quantile(array, share)), low, high, n, confidence, "order statistics")


def _values(values: Any) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise ConfigError(f"expected a non-empty list of numbers, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ConfigError("a value is NaN or infinite", hint="mark the sample unscored instead: NaN never counts as a score")
    return array


def _grouped(groups: Sequence[Hashable] | None, n: int) -> bool:
    if groups is None:
        return False
    if len(groups) != n:
        raise ConfigError(f"{len(groups)} groups for {n} values")
    return len(set(groups)) < n
