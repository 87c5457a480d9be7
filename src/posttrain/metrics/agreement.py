"""How far annotators agree beyond chance, with bootstrap intervals over items: percent, Cohen, Fleiss, Krippendorff.

Ratings are numbers, float [item, rater], NaN where a rater gave none. Every figure is 1 - observed / expected disagreement, and both are
sums over items, so the bootstrap resamples rows of sums: whole groups of items where there are groups. Where expected disagreement is zero
(every rating is the same) nothing can be said, and the answer is None.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posttrain.errors import ConfigError
from posttrain.metrics.intervals import Interval, critical_value, group_codes, proportion_interval, wilson

Floats = NDArray[np.float64]
Disagreement = Callable[[Floats], tuple[Floats, Floats, Floats]]
"""Sums [draw, part] to observed and expected disagreement and the largest a single pair of ratings can have, [draw] each."""

NUM_DRAWS = 2000
FEW_GROUPS = 5
"""Up to so many groups a bootstrap has too few different samples to be wide enough."""


def percent_agreement(
    ratings: ArrayLike, *, groups: Sequence[Hashable] | None = None, confidence: float = 0.95, seed: int = 0
) -> Interval | None:
    """Mean over items of the share of pairs of raters who said the same. Items with one rating say nothing.

    Two ratings an item are a proportion, with its interval (Wilson, effective size); more are bootstrapped.
    """
    counts, _ = _counts(ratings)
    if not len(counts):
        return None
    differ, kept = _disagreeing_pairs(counts), _kept(ratings, groups)
    one_group = kept is not None and len(set(kept)) < 2 <= len(kept)
    if np.isin(differ, (0.0, 1.0)).all() and not one_group:
        return proportion_interval(1 - differ, groups=kept, confidence=confidence)
    parts = np.stack([np.ones(len(counts)), differ], axis=1)

    def disagreement(sums: Floats) -> tuple[Floats, Floats, Floats]:
        ones = np.ones(len(sums))
        return sums[:, 1] / sums[:, 0], ones, ones

    return _interval(parts, disagreement, kept, confidence, seed, "agreement")


def cohen_kappa(
    first: ArrayLike,
    second: ArrayLike,
    *,
    weights: Literal["none", "linear", "quadratic"] = "none",
    groups: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval | None:
    """Cohen's kappa (1960, Educational and Psychological Measurement 20:37) of two raters, [item] each; weighted: Cohen (1968).

    Categories are ordered by their numbers; a weight is the distance (or its square) between their ranks. Items both rated count.
    """
    pair = np.stack([np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)], axis=1)
    both = ~np.isnan(pair).any(axis=1)
    values, codes = np.unique(pair[both], return_inverse=True)
    k, codes = len(values), codes.reshape(-1, 2)
    parts = np.eye(k * k)[codes[:, 0] * k + codes[:, 1]] if k else np.zeros((0, 0))
    ranks = np.arange(k)
    distance = np.abs(ranks[:, None] - ranks) ** {"none": 1, "linear": 1, "quadratic": 2}[weights]
    cost = (distance > 0).astype(np.float64) if weights == "none" else distance / max(distance.max(initial=0), 1)

    def disagreement(sums: Floats) -> tuple[Floats, Floats, Floats]:
        table = sums.reshape(-1, k, k) / sums.sum(axis=1)[:, None, None]
        expected = np.einsum("di,dj,ij->d", table.sum(axis=2), table.sum(axis=1), cost)
        return (table * cost).sum(axis=(1, 2)), expected, np.ones(len(sums))

    return _interval(parts, disagreement, _kept(pair, groups), confidence, seed, "kappa")


def fleiss_kappa(
    ratings: ArrayLike, *, groups: Sequence[Hashable] | None = None, confidence: float = 0.95, seed: int = 0
) -> Interval | None:
    """Fleiss' kappa (1971, Psychological Bulletin 76:378).

    Departs from the paper where items have different numbers of ratings: an item's agreement is that of its own ratings, every item
    weighs the same, and items with fewer than two are left out. With equal numbers it is the paper's.
    """
    counts, _ = _counts(ratings)
    parts = np.concatenate([np.ones((len(counts), 1)), _disagreeing_pairs(counts)[:, None], counts], axis=1)

    def disagreement(sums: Floats) -> tuple[Floats, Floats, Floats]:
        shares = sums[:, 2:] / sums[:, 2:].sum(axis=1, keepdims=True)
        return sums[:, 1] / sums[:, 0], 1 - (shares**2).sum(axis=1), np.ones(len(sums))

    return _interval(parts, disagreement, _kept(ratings, groups), confidence, seed, "fleiss")


def krippendorff_alpha(
    ratings: ArrayLike,
    *,
    level: Literal["nominal", "ordinal", "interval"] = "nominal",
    groups: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval | None:
    """Krippendorff's alpha (2011, Computing Krippendorff's Alpha-Reliability, sections C to E); any number of raters, ratings may lack."""
    counts, values = _counts(ratings)
    k = len(values)
    pairs = counts[:, :, None] * counts[:, None, :] - np.einsum("ic,cd->icd", counts, np.eye(k))
    parts = (pairs / (counts.sum(axis=1) - 1)[:, None, None]).reshape(len(counts), k * k)  # an item's coincidences

    def disagreement(sums: Floats) -> tuple[Floats, Floats, Floats]:
        coincidences = sums.reshape(-1, k, k)
        margins = coincidences.sum(axis=2)
        total = margins.sum(axis=1)
        if level == "nominal":
            delta = np.broadcast_to(1 - np.eye(k), coincidences.shape)
        else:
            at = np.cumsum(margins, axis=1) - margins / 2 if level == "ordinal" else np.broadcast_to(values, margins.shape)
            delta = (at[:, :, None] - at[:, None, :]) ** 2
        expected = np.einsum("dc,dk,dck->d", margins, margins, delta) / (total * (total - 1))
        return (coincidences * delta).sum(axis=(1, 2)) / total, expected, delta.max(axis=(1, 2))

    return _interval(parts, disagreement, _kept(ratings, groups), confidence, seed, f"alpha, {level}")


def _counts(ratings: ArrayLike) -> tuple[Floats, Floats]:
    """How often each value was given to an item, [item, value], for items rated at least twice; and the values."""
    table = np.asarray(ratings, dtype=np.float64)
    if table.ndim != 2:
        raise ConfigError(f"ratings must be [item, rater], got shape {table.shape}")
    table = table[(~np.isnan(table)).sum(axis=1) >= 2]
    values = np.unique(table[~np.isnan(table)])
    return (table[:, :, None] == values).sum(axis=1).astype(np.float64), values


def _kept(ratings: ArrayLike, groups: Sequence[Hashable] | None) -> Sequence[Hashable] | None:
    if groups is None:
        return None
    rated = (~np.isnan(np.asarray(ratings, dtype=np.float64))).sum(axis=1) >= 2
    return [group for group, keep in zip(groups, rated, strict=True) if keep]


def _disagreeing_pairs(counts: Floats) -> Floats:
    """Share of the pairs of an item's ratings that differ, [item]."""
    total = counts.sum(axis=1)
    return np.asarray(1 - ((counts**2).sum(axis=1) - total) / (total * (total - 1)))


def _interval(
    parts: Floats, disagreement: Disagreement, groups: Sequence[Hashable] | None, confidence: float, seed: int, what: str
) -> Interval | None:
    """Percentile bootstrap over groups; for :data:`FEW_GROUPS` or fewer Student's t times the jackknife's standard error, which is wider.

    Without any disagreement there is nothing to resample: the low end is then the figure that the upper Wilson bound of "no group of n
    disagrees" would give. Groups that are all alike say nothing of how groups differ: each item counts for itself. Where that is no help,
    or there is one group, both ends are unbounded.
    """
    if not len(parts):
        return None
    codes = group_codes(groups) if groups is not None else np.arange(len(parts))
    num_groups = int(codes.max()) + 1
    sums = np.zeros((num_groups, parts.shape[1]))
    np.add.at(sums, codes, parts)
    with np.errstate(divide="ignore", invalid="ignore"):
        observed, expected, largest = (float(one[0]) for one in disagreement(sums.sum(axis=0, keepdims=True)))
        if not expected > 0:
            return None
        value, method = 1 - observed / expected, f"{what}: bootstrap over {num_groups} groups"
        low, high = -math.inf, math.inf
        if num_groups < 2:
            method = f"{what}: one group says nothing of how groups differ"
        elif observed == 0:
            z = critical_value(confidence, num_groups - 1 if num_groups <= FEW_GROUPS else None)
            share = 1 - wilson(num_groups, num_groups, z=z)[0]
            low, high = 1 - share * largest / expected, 1.0
        elif len(np.unique(sums, axis=0)) == 1:
            if num_groups < len(parts):
                return _interval(parts, disagreement, None, confidence, seed, what)
        elif num_groups <= FEW_GROUPS:
            method = f"{what}: student's t, jackknife over {num_groups} groups"
            half = critical_value(confidence, num_groups - 1) * _jackknife_error(sums, disagreement)
            low, high = value - half, value + half
        else:
            low, high = _percentiles(sums, disagreement, confidence, seed)
    return Interval(value, float(low), float(high), len(parts), confidence, method)


def _jackknife_error(sums: Floats, disagreement: Disagreement) -> float:
    """Standard error from leaving out one group at a time (Efron & Tibshirani 1993, ch. 11); infinite where a figure needs every group."""
    left, chance, _ = disagreement(sums.sum(axis=0) - sums)
    figures = 1 - left / chance
    if not np.isfinite(figures).all():
        return math.inf
    num_groups = len(sums)
    return math.sqrt((num_groups - 1) / num_groups * float(((figures - figures.mean()) ** 2).sum()))


def _percentiles(sums: Floats, disagreement: Disagreement, confidence: float, seed: int) -> tuple[float, float]:
    num_groups = len(sums)
    kinds, sizes = np.unique(sums, axis=0, return_counts=True)  # groups of equal sums are drawn as one kind
    draws = np.random.default_rng(seed).multinomial(num_groups, sizes / num_groups, size=NUM_DRAWS)
    drawn, chance, _ = disagreement(draws @ kinds)
    figures = 1 - drawn / chance
    tail = (1 - confidence) / 2
    low, high = np.quantile(figures[np.isfinite(figures)], [tail, 1 - tail])
    return float(low), float(high)
