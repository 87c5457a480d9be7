"""Rank correlation with an interval."""

import math
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posttrain.errors import ConfigError
from posttrain.metrics.intervals import Interval, critical_value, group_codes

_NUM_BOOTSTRAP = 500


def rank_correlation(
    first: ArrayLike, second: ArrayLike, *, groups: Sequence[Hashable] | None = None, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Spearman's rho of two lists [value], ties given their mean rank.

    Interval by Fisher's z with the variance (1 + rho^2 / 2) / (n - 3) of Bonett & Wright (2000, Psychometrika 65), good for |rho| < .95.
    ``groups`` [value]: values that rise and fall together; the error of z is then that of 500 resamples of whole groups where it is the
    larger one, with Student's t of (groups - 1) degrees (Cameron, Gelbach & Miller 2008, Review of Economics and Statistics 90).
    Raises ConfigError for fewer than 4 values or a list that does not vary.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape or len(a) < 4 or not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ConfigError(f"a rank correlation needs two finite lists of one length, at least 4 values; got {a.shape} and {b.shape}")
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        raise ConfigError("a rank correlation needs values that vary: one list is constant")
    if groups is not None and len(groups) != len(a):
        raise ConfigError(f"{len(groups)} groups for {len(a)} values")
    rho = float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])
    error, method, degrees, centre = math.sqrt((1 + rho**2 / 2) / (len(a) - 3)), "spearman, fisher z", None, _z(rho)
    if groups is not None and (num_groups := len(set(groups))) < len(a):
        error, degrees = max(error, _group_error(a, b, group_codes(groups), seed)), max(1, num_groups - 1)
        method = f"spearman, group bootstrap of fisher z, {num_groups} groups"
    half = critical_value(confidence, degrees) * error
    return Interval(rho, math.tanh(centre - half), math.tanh(centre + half), len(a), confidence, method)


def _z(rho: float) -> float:
    return math.atanh(max(-1 + 1e-12, min(1 - 1e-12, rho)))


def _group_error(a: NDArray[np.float64], b: NDArray[np.float64], codes: NDArray[np.int64], seed: int) -> float:
    """Standard deviation of z over resamples of whole groups; infinite where there are fewer than two groups or nothing varies."""
    members = [np.flatnonzero(codes == number) for number in range(int(codes.max()) + 1)]
    if len(members) < 2:
        return math.inf
    found = []
    for draw in np.random.default_rng(seed).integers(0, len(members), size=(_NUM_BOOTSTRAP, len(members))):
        drawn = np.concatenate([members[number] for number in draw])
        if np.ptp(a[drawn]) > 0 and np.ptp(b[drawn]) > 0:
            found.append(_z(float(np.corrcoef(_ranks(a[drawn]), _ranks(b[drawn]))[0, 1])))
    return float(np.std(found, ddof=1)) if len(found) > 1 else math.inf


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[inverse])
