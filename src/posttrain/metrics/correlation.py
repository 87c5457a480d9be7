"""Rank correlation with an interval."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posttrain.errors import ConfigError
from posttrain.metrics.intervals import Interval, critical_value


def rank_correlation(first: ArrayLike, second: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Spearman's rho of two lists [value], ties given their mean rank.

    Interval by Fisher's z with the variance (1 + rho^2 / 2) / (n - 3) of Bonett & Wright (2000, Psychometrika 65), good for |rho| < .95.
    Raises ConfigError for fewer than 4 values or a list that does not vary.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape or len(a) < 4 or not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ConfigError(f"a rank correlation needs two finite lists of one length, at least 4 values; got {a.shape} and {b.shape}")
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        raise ConfigError("a rank correlation needs values that vary: one list is constant")
    rho = float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])
    bounded = max(-1 + 1e-12, min(1 - 1e-12, rho))
    half = critical_value(confidence) * math.sqrt((1 + rho**2 / 2) / (len(a) - 3))
    centre = math.atanh(bounded)
    return Interval(rho, math.tanh(centre - half), math.tanh(centre + half), len(a), confidence, "spearman, fisher z")


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[inverse])
