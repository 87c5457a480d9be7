"""Scores from paired comparisons: Bradley & Terry (1952, Biometrika 39:324), with ties after Davidson (1970, JASA 65:317) and covariates.

With eta = s_i - s_j + x . c:   P(i wins) : P(j wins) : P(tie) = exp(eta / 2) : exp(-eta / 2) : nu

Scores, covariates and log(nu) have a normal prior (ridge), so that a system that never lost has a finite score.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posttrain.errors import ConfigError
from posttrain.metrics.intervals import Interval, critical_value, group_codes

Floats = NDArray[np.float64]
MAX_STEPS = 100
LONGEST_STEP = 2.0
FEW_GROUPS = 5  # up to so many a bootstrap has too few different samples to be wide enough
DRAWS_AT_ONCE = 1 << 22  # weights held at once: draws x comparisons


@dataclass(frozen=True, slots=True)
class BradleyTerry:
    """``scores`` in logits, their sum zero; ``covariates`` in logits a unit; ``log_nu`` None without ties.

    ``one_sided``: systems that won, or lost, all their comparisons: the data bound their score on one side only, and their interval is
    as wide as the prior lets it be.
    """

    scores: dict[str, Interval]
    covariates: dict[str, Interval]
    log_nu: Interval | None
    one_sided: tuple[str, ...]

    def win_probability(self, first: str, second: str) -> float:
        """P(first wins | one of the two wins), covariates at zero."""
        return 1 / (1 + math.exp(self.scores[second].value - self.scores[first].value))


def bradley_terry(
    first: Sequence[str],
    second: Sequence[str],
    outcomes: ArrayLike,
    *,
    covariates: Mapping[str, ArrayLike] | None = None,
    groups: Sequence[Hashable] | None = None,
    prior_scale: float = 3.0,
    num_draws: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> BradleyTerry:
    """Fit and bootstrap. ``outcomes`` [comparison]: 1 the first won, 0 the second, .5 a tie.

    ``covariates``: name to a value a comparison, first minus second (length, place). ``groups``: comparisons that rise and fall together
    (those of a prompt), drawn whole. Intervals: Student's t times the bootstrap's standard error (percentiles of logistic scores are too
    narrow: 92 to 94 % in simulation); for one-sided systems the posterior's curvature where that is wider. Up to :data:`FEW_GROUPS` groups
    the jackknife's standard error, or the curvature's where that is larger; one group bounds nothing.
    Raises ConfigError for systems in separate islands that were never compared with each other.
    """
    design, cells, results = _prepare(first, second, outcomes, covariates or {})
    names = sorted({*first, *second})
    _check_connected(names, first, second)
    codes = group_codes(groups) if groups is not None else np.arange(len(results))
    if len(codes) != len(results):
        raise ConfigError(f"{len(codes)} groups for {len(results)} comparisons")
    fit = _Fit(design, has_ties=bool((results == 1).any()), precision=prior_scale**-2)
    cell_results = cells * 3 + results
    counts = np.bincount(cell_results, minlength=3 * len(design)).astype(np.float64).reshape(1, -1, 3)
    best = fit.solve(counts)
    centre = np.eye(best.shape[1])
    centre[: len(names), : len(names)] -= 1 / len(names)  # scores sum to zero: what they have in common is no uncertainty of theirs
    spread = np.sqrt(np.diagonal(centre @ np.linalg.inv(fit.curvature(best, counts)[0]) @ centre))
    one_sided = _one_sided(names, first, second, results)
    num_groups = int(codes.max()) + 1
    if num_groups < 2:
        error, method = np.full(len(spread), np.inf), "one group says nothing of how groups differ"
    elif num_groups <= FEW_GROUPS:
        left_out = fit.solve(counts - _group_counts(codes, cell_results, len(design)), start=best)
        error = np.maximum(np.sqrt((num_groups - 1) * left_out.var(axis=0)), spread)
        method = f"student's t, jackknife over {num_groups} groups or curvature"
    else:
        portions = _drawn_counts(codes, cell_results, len(design), num_draws, np.random.default_rng(seed))
        error = np.concatenate([fit.solve(some, start=best) for some in portions]).std(axis=0, ddof=1)
        error = np.where(error > 1e-9, error, spread)  # groups that are all alike say nothing of how groups differ
        method = f"bootstrap over {num_groups} groups"
    scale = critical_value(confidence, max(1, num_groups - 1))
    found: list[Interval] = []
    for number, value in enumerate(best[0].tolist()):
        reach, how = scale * float(error[number]), method
        if number < len(names) and names[number] in one_sided:
            reach, how = max(reach, critical_value(confidence) * float(spread[number])), "prior and curvature: one-sided data"
        found.append(Interval(value, value - reach, value + reach, len(results), confidence, how))
    systems = len(names)
    named = dict(zip(covariates or {}, found[systems:], strict=False))
    return BradleyTerry(dict(zip(names, found, strict=False)), named, found[-1] if fit.has_ties else None, one_sided)


def _prepare(
    first: Sequence[str], second: Sequence[str], outcomes: ArrayLike, covariates: Mapping[str, ArrayLike]
) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
    """The different rows of the design [cell, parameter], the cell of each comparison, and its result (0 lost, 1 tied, 2 won)."""
    given = np.asarray(outcomes, dtype=np.float64)
    if not len(given) or len(first) != len(given) or len(second) != len(given):
        raise ConfigError(f"{len(first)} first systems, {len(second)} second ones and {given.size} outcomes")
    if not np.isin(given, (0.0, 0.5, 1.0)).all():
        raise ConfigError("an outcome is none of 0, .5, 1", hint="1: the first won, .5: a tie, 0: the second won")
    names = sorted({*first, *second})
    column = {name: number for number, name in enumerate(names)}
    sides = (np.eye(len(names))[[column[name] for name in side]] for side in (first, second))
    rows = np.concatenate([next(sides) - next(sides), np.zeros((len(given), len(covariates)))], axis=1)
    for number, (name, values) in enumerate(covariates.items()):
        rows[:, len(names) + number] = values
        if not np.isfinite(rows[:, len(names) + number]).all():
            raise ConfigError(f"covariate '{name}' has a value that is not finite")
    design, cells = np.unique(rows, axis=0, return_inverse=True)
    return design, np.asarray(cells, dtype=np.int64).reshape(-1), np.asarray(given * 2, dtype=np.int64)


def _check_connected(names: Sequence[str], first: Sequence[str], second: Sequence[str]) -> None:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    column = {name: number for number, name in enumerate(names)}
    rows, columns = [column[name] for name in first], [column[name] for name in second]
    count, island = connected_components(coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(names), len(names))), directed=False)
    if count > 1:
        parts = " | ".join(", ".join(name for name, one in zip(names, island, strict=True) if one == number) for number in range(count))
        raise ConfigError(f"the systems are {count} islands never compared with each other: {parts}", hint="compare across, or fit each")


def _one_sided(names: Sequence[str], first: Sequence[str], second: Sequence[str], results: NDArray[np.int64]) -> tuple[str, ...]:
    """Systems all of whose comparisons (against others) they won, or lost."""
    seen: dict[str, set[int]] = {name: set() for name in names}
    for one, other, result in zip(first, second, results.tolist(), strict=True):
        if one != other:
            seen[one].add(result)
            seen[other].add(2 - result)
    return tuple(name for name in names if seen[name] in ({0}, {2}))


def _group_counts(codes: NDArray[np.int64], cell_results: NDArray[np.int64], num_cells: int) -> Floats:
    """Counts [group, cell, result] of each group."""
    counts = np.zeros((int(codes.max()) + 1, num_cells * 3))
    np.add.at(counts, (codes, cell_results), 1.0)
    return counts.reshape(len(counts), num_cells, 3)


def _drawn_counts(
    codes: NDArray[np.int64], cell_results: NDArray[np.int64], num_cells: int, num_draws: int, rng: np.random.Generator
) -> list[Floats]:
    """Counts [draw, cell, result] of resampled groups, in portions."""
    num_groups = int(codes.max()) + 1
    order = np.argsort(cell_results, kind="stable")
    present, starts = np.unique(cell_results[order], return_index=True)
    portions = []
    at_once = max(1, DRAWS_AT_ONCE // len(codes))
    for begin in range(0, num_draws, at_once):
        size = min(at_once, num_draws - begin)
        weights = rng.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=size)[:, codes[order]]
        counts = np.zeros((size, num_cells * 3))
        counts[:, present] = np.add.reduceat(weights, starts, axis=1)
        portions.append(counts.reshape(size, num_cells, 3))
    return portions


class _Fit:
    """Newton's method for many weightings of the same design at once. Parameters: scores, covariates, then log(nu) where there are ties."""

    def __init__(self, design: Floats, *, has_ties: bool, precision: float) -> None:
        self.design, self.has_ties, self.precision = design, has_ties, precision

    def solve(self, counts: Floats, *, start: Floats | None = None) -> Floats:
        """The posterior mode [draw, parameter] for counts [draw, cell, (lost, tied, won)]."""
        size = self.design.shape[1] + self.has_ties
        at = np.repeat(start, len(counts), axis=0) if start is not None else np.zeros((len(counts), size))
        for _ in range(MAX_STEPS):
            step = np.linalg.solve(self.curvature(at, counts), self._gradient(at, counts)[:, :, None])[:, :, 0]
            longest = np.abs(step).max(axis=1, keepdims=True)
            at = at + step * np.minimum(1.0, LONGEST_STEP / np.maximum(longest, 1e-300))
            if longest.max() < 1e-9:
                return np.asarray(at)
        raise ConfigError("Bradley-Terry scores did not settle", hint="a covariate is on a huge scale: standardise it")

    def _chances(self, at: Floats) -> tuple[Floats, Floats, Floats]:
        """P(first wins), P(second wins), P(tie), each [draw, cell]."""
        size = self.design.shape[1]
        half = at[:, :size] @ self.design.T / 2
        log_nu = at[:, size:] if self.has_ties else np.full((len(at), 1), -np.inf)
        parts = np.stack([half, -half, np.broadcast_to(log_nu, half.shape)])
        parts = np.exp(parts - parts.max(axis=0))
        won, lost, tied = parts / parts.sum(axis=0)
        return won, lost, tied

    def _gradient(self, at: Floats, counts: Floats) -> Floats:
        won, lost, tied = self._chances(at)
        total = counts.sum(axis=2)
        slope = ((counts[:, :, 2] - counts[:, :, 0]) - total * (won - lost)) / 2
        parts = [slope @ self.design]
        if self.has_ties:
            parts.append((counts[:, :, 1] - total * tied).sum(axis=1, keepdims=True))
        return np.asarray(np.concatenate(parts, axis=1) - self.precision * at)

    def curvature(self, at: Floats, counts: Floats) -> Floats:
        """Minus the second derivative of the log posterior, [draw, parameter, parameter]."""
        won, lost, tied = self._chances(at)
        total = counts.sum(axis=2)
        size = self.design.shape[1]
        full = np.zeros((len(at), size + self.has_ties, size + self.has_ties))
        weight = total * (won + lost - (won - lost) ** 2) / 4
        full[:, :size, :size] = np.swapaxes(weight[:, :, None] * self.design, 1, 2) @ self.design
        if self.has_ties:
            cross = -(total * tied * (won - lost) / 2) @ self.design
            full[:, :size, size] = full[:, size, :size] = cross
            full[:, size, size] = (total * tied * (1 - tied)).sum(axis=1)
        return full + self.precision * np.eye(full.shape[1])
