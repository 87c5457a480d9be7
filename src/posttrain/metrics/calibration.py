"""How far stated probabilities can be believed: calibration error, reliability bins, and the temperature that corrects them."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posttrain.errors import ConfigError
from posttrain.metrics.intervals import critical_value, group_codes, wilson

_NUM_DRAWS = 1000
_NUM_NEWTON = 100
MAX_LOGIT = 50.0
"""Bound of a typical scaled difference: a steeper slope is no longer estimated, it only says that every pair came out right."""


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Predictions stated between ``low`` and ``high``: their mean, the share that came true and its Wilson interval."""

    low: float
    high: float
    count: int
    stated: float
    observed: float
    observed_low: float
    observed_high: float


@dataclass(frozen=True, slots=True)
class Temperature:
    """T with its interval at ``confidence``, and the mean negative log-likelihood before (T = 1) and after, over ``n`` pairs.

    ``bounded``: why T is a bound and no estimate ("" for an estimate).
    """

    value: float
    low: float
    high: float
    n: int
    confidence: float
    loss_before: float
    loss_after: float
    bounded: str = ""


def expected_calibration_error(confidences: ArrayLike, correct: ArrayLike, *, num_bins: int = 10) -> float:
    """Mean |accuracy - confidence| over equal-width bins, weighted by bin size (Guo et al. 2017, arXiv:1706.04599, eq. 3).

    confidences in [0, 1] and correct (0/1, or a share of a soft label), both [sample].
    """
    stated, right = _checked(confidences, correct)
    gaps = np.bincount(_bins(stated, num_bins), weights=right - stated, minlength=num_bins)
    return float(np.abs(gaps).sum() / len(stated))


def calibration_error_by_chance(confidences: ArrayLike, *, num_bins: int = 10, seed: int = 0) -> tuple[float, float]:
    """Mean and 95th percentile of the error a perfectly calibrated predictor shows with these confidences.

    The error of a finite sample is never zero (Nixon et al. 2019, arXiv:1904.01685, section 3): outcomes are drawn with the stated
    probabilities and the error computed, 1,000 times. An error below the percentile is no evidence of miscalibration.
    """
    stated, _ = _checked(confidences, np.zeros_like(np.asarray(confidences, dtype=np.float64)))
    bins, rng = _bins(stated, num_bins), np.random.default_rng(seed)
    found = [
        float(np.abs(np.bincount(bins, weights=(rng.random(len(stated)) < stated) - stated, minlength=num_bins)).sum() / len(stated))
        for _ in range(_NUM_DRAWS)
    ]
    return float(np.mean(found)), float(np.quantile(found, 0.95))


def reliability_bins(
    confidences: ArrayLike, correct: ArrayLike, *, num_bins: int = 10, low: float = 0.0, confidence: float = 0.95
) -> list[ReliabilityBin]:
    """The filled bins of a reliability diagram: ``num_bins`` of equal width from ``low`` to 1 (pairs: low = .5).

    confidences in [low, 1] and correct (0/1, or a share), both [sample].
    """
    stated, right = _checked(confidences, correct, low=low)
    width = (1.0 - low) / num_bins
    numbers = np.minimum(((stated - low) / width).astype(np.int64), num_bins - 1)
    found = []
    for number in sorted(set(numbers.tolist())):
        inside = numbers == number
        count, successes = int(inside.sum()), float(right[inside].sum())
        below, above = wilson(successes, count, confidence=confidence)
        begin = low + number * width
        found.append(ReliabilityBin(begin, begin + width, count, float(stated[inside].mean()), successes / count, below, above))
    return found


def fit_temperature(
    differences: ArrayLike, probabilities: ArrayLike | None = None, *, groups: Sequence[Hashable] | None = None, confidence: float = 0.95
) -> Temperature:
    """T of P(first is better) = sigmoid(difference / T) by maximum likelihood (Guo et al. 2017, section 4.2, two classes).

    differences: reward of the first minus reward of the second, [pair]; probabilities: label that the first is better, default 1. The
    likelihood is concave in 1 / T, which Newton's method finds; the interval is Wald's on 1 / T. To be fitted on pairs used for nothing
    else. ``groups`` [pair]: pairs of one prompt rise and fall together; the error is then cluster-robust (Liang & Zeger 1986, Biometrika
    73, working independence, times G / (G - 1)), never below the one without groups, with Student's t of G - 1 degrees.
    Where the order of the pairs carries no information (1 / T <= 0) T is infinite, and where every pair is ordered as labelled T goes to
    0: ``bounded`` says so. Raises ConfigError when all differences are 0.
    """
    d = np.asarray(differences, dtype=np.float64)
    p = np.ones_like(d) if probabilities is None else np.asarray(probabilities, dtype=np.float64)
    if groups is not None and len(groups) != len(d):
        raise ConfigError(f"{len(groups)} groups for {len(d)} differences")
    if d.ndim != 1 or not len(d) or p.shape != d.shape or not np.isfinite(d).all() or not ((p >= 0) & (p <= 1)).all():
        raise ConfigError("a temperature needs finite differences [pair] and as many labels in [0, 1]")
    spread = float(np.sqrt((d**2).mean()))
    if spread == 0:
        raise ConfigError(f"all {len(d)} differences are 0: the model gives both sides of every pair the same score")
    x, before = d / spread, _loss(d, p)
    slope = _slope(x, p)
    if slope <= 0:
        return Temperature(math.inf, math.inf, math.inf, len(d), confidence, before, math.log(2), "the order of the pairs says nothing")
    value = spread / slope
    after = _loss(d / value, p)
    if slope >= MAX_LOGIT:
        return Temperature(value, 0.0, value, len(d), confidence, before, after, "every pair is ordered as labelled")
    chance = _sigmoid(slope * x)
    error = 1.0 / math.sqrt(float((x**2 * chance * (1 - chance)).sum()))
    degrees = None
    if groups is not None and (num_groups := len(set(groups))) < len(d):
        totals = np.bincount(group_codes(groups), weights=x * (p - chance))
        robust = error**2 * math.sqrt(float((totals**2).sum()) * num_groups / (num_groups - 1)) if num_groups > 1 else math.inf
        error, degrees = max(error, robust), max(1, num_groups - 1)
    half = critical_value(confidence, degrees) * error
    high = spread / (slope - half) if slope > half else math.inf
    return Temperature(value, spread / (slope + half), high, len(d), confidence, before, after)


def _slope(x: NDArray[np.float64], p: NDArray[np.float64]) -> float:
    """The slope in [0, MAX_LOGIT] with the highest likelihood; ``x`` has unit size."""
    if float((x * (p - 0.5)).sum()) <= 0:  # derivative of the log-likelihood at 0
        return 0.0
    if float((x * (p - _sigmoid(MAX_LOGIT * x))).sum()) >= 0:
        return MAX_LOGIT
    low, high, slope = 0.0, MAX_LOGIT, 1.0
    for _ in range(_NUM_NEWTON):
        chance = _sigmoid(slope * x)
        gradient = float((x * (p - chance)).sum())
        low, high = (slope, high) if gradient > 0 else (low, slope)
        step = gradient / max(float((x**2 * chance * (1 - chance)).sum()), 1e-300)
        following = slope + step if low < slope + step < high else (low + high) / 2
        if abs(following - slope) <= 1e-12 * slope:
            break
        slope = following
    return slope


def _loss(logits: NDArray[np.float64], p: NDArray[np.float64]) -> float:
    return float((p * np.logaddexp(0, -logits) + (1 - p) * np.logaddexp(0, logits)).mean())


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.exp(-np.logaddexp(0, -x)))


def _bins(stated: NDArray[np.float64], num_bins: int) -> NDArray[np.int64]:
    return np.minimum((stated * num_bins).astype(np.int64), num_bins - 1)


def _checked(confidences: Any, correct: Any, *, low: float = 0.0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    stated, right = np.asarray(confidences, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if stated.shape != right.shape or stated.ndim != 1 or not len(stated) or not ((stated >= low) & (stated <= 1)).all():
        raise ConfigError(f"calibration needs as many confidences in [{low:g}, 1] as outcomes, and at least one")
    if not ((right >= 0) & (right <= 1)).all():
        raise ConfigError("an outcome is not between 0 and 1", hint="1 came true, 0 did not; a share is a soft label")
    return stated, right
