"""Each annotator: labels, confusion, gold tasks, consistency, and whether they stand out from the others."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from posttrain.feedback.adjudication import adjudicators
from posttrain.feedback.effects import longer_side, order_is_drawn
from posttrain.feedback.labels import FEWEST, A, B, LabelTable, dawid_skene_fit
from posttrain.metrics.dawid_skene import MISSING
from posttrain.metrics.intervals import Interval, design_effect, group_codes, proportion_interval
from posttrain.records import CHOICES, Comparison

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Finding:
    """One test of one annotator: the annotator's figure, what it is compared with, and Holm's adjusted p-value over all tests."""

    test: str
    value: float
    expected: float
    p: float


@dataclass(frozen=True, slots=True)
class Annotator:
    """One annotator's labels.

    ``confusion`` [true choice][said choice] after Dawid-Skene, and ``accuracy``, its diagonal weighed by the prior, are None where fewer
    than :data:`FEWEST` comparisons were judged by others too. ``repeated``: how often a second label of the same comparison was the same.
    ``findings``: the tests at which the annotator stands out.
    """

    name: str
    labels: int
    shares: dict[str, float]
    confusion: tuple[tuple[float, ...], ...] | None
    accuracy: float | None
    agreement: float | None
    gold: Interval | None
    first_chosen: Interval | None
    longer_chosen: Interval | None
    repeated: Interval | None
    findings: tuple[Finding, ...] = ()

    @property
    def uncalibrated(self) -> bool:
        """Whether any test says so."""
        return bool(self.findings)


def annotators(comparisons: Sequence[Comparison], table: LabelTable, *, alpha: float = 0.05) -> list[Annotator]:
    """Every annotator with the tests at which they stand out, at a family-wise error of ``alpha`` over all annotators and tests (Holm).

    Tests: agreement with the others lower than the others' among themselves; gold tasks answered worse than by the others (Fisher's
    exact test); the answer shown first chosen more or less often than half the time; where the annotator and the others decide
    differently, the longer answer taken more often than half the time. Where the order was not drawn, the answer shown first may be the
    better one, and only gold tasks can tell: whether they are missed as often when the right answer is shown first as when it is second
    (Fisher). Judgements of one prompt count as their effective number.
    A judgement that settled its comparison is in no test and no agreement: whoever settles sees only what the others dispute.
    """
    gold = np.array([not adjudicators(one) for one in comparisons]) & (table.gold != MISSING)
    first = np.array([[_first_shown(one, name) for name in table.annotators] for one in comparisons])
    longer = np.array([{"a": A, "b": B, None: MISSING}[longer_side(one)] for one in comparisons])
    blind, drawn = _without_decisions(comparisons, table), order_is_drawn(comparisons) is not False
    matrices = _confusions(blind)
    found, tests = [], []
    for column, name in enumerate(table.annotators):
        found.append(_describe(name, column, table, blind, matrices[column], gold, first[:, column], longer))
        tests += [(column, one) for one in _tests(column, blind, gold, first[:, column], longer, drawn)]
    adjusted = holm([one.p for _, one in tests])
    for (column, one), p in zip(tests, adjusted, strict=True):
        if p < alpha:
            found[column] = replace(found[column], findings=(*found[column].findings, replace(one, p=p)))
    return found


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p-values, in the order given."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.maximum.accumulate(np.asarray(p_values, dtype=np.float64)[order] * np.arange(len(order), 0, -1))
    result = np.empty(len(order))
    result[order] = np.minimum(adjusted, 1.0)
    return [float(one) for one in result]


def _without_decisions(comparisons: Sequence[Comparison], table: LabelTable) -> LabelTable:
    """The table without the judgements of those who settled the comparison."""
    settled = np.array([[name in adjudicators(one) for name in table.annotators] for one in comparisons])
    return replace(table, codes=np.where(settled[:, :, None], MISSING, table.codes))


def _confusions(table: LabelTable) -> list[tuple[Floats, float] | None]:
    """Each annotator's confusion matrix and accuracy; None for those of whom too little is known."""
    known = (table.latest != MISSING).any(axis=1) | (table.gold != MISSING)
    found = dawid_skene_fit(replace(table, codes=table.codes[known], gold=table.gold[known]))
    if found is None:
        return [None] * len(table.annotators)
    fit, rows, alone = found
    return [
        (fit.confusion[row], float((fit.prior * np.diagonal(fit.confusion[row])).sum())) if known else None
        for row, known in zip(rows, alone, strict=True)
    ]


def _describe(
    name: str,
    column: int,
    table: LabelTable,
    blind: LabelTable,
    matrix: tuple[Floats, float] | None,
    gold: Bools,
    first: NDArray[np.int64],
    longer: NDArray[np.int64],
) -> Annotator:
    mine = table.latest[:, column]
    labels = mine[mine != MISSING]
    decided = (mine == A) | (mine == B)
    twice = table.codes[:, column, 1] != MISSING if table.codes.shape[2] > 1 else np.zeros(len(mine), dtype=bool)
    same_again = table.codes[:, column, 0] == table.codes[:, column, 1] if twice.any() else twice
    agreed, of = _with_others(column, blind)
    return Annotator(
        name=name,
        labels=int((table.codes[:, column] != MISSING).sum()),
        shares={choice: float((labels == code).mean()) for code, choice in enumerate(CHOICES)},
        confusion=None if matrix is None else tuple(tuple(map(float, row)) for row in matrix[0]),
        accuracy=None if matrix is None else matrix[1],
        agreement=float(agreed.sum() / of.sum()) if of.sum() else None,
        gold=_share(mine == table.gold, gold & (mine != MISSING), table),
        first_chosen=_share(mine == first, decided & (first != MISSING), table),
        longer_chosen=_share(mine == longer, decided & (longer != MISSING), table),
        repeated=_share(same_again, twice, table),
    )


def _share(values: Bools, keep: Bools, table: LabelTable) -> Interval | None:
    if not keep.any():
        return None
    groups = [group for group, kept in zip(table.groups, keep, strict=True) if kept]
    return proportion_interval(values[keep].astype(np.float64), groups=groups)


def _first_shown(comparison: Comparison, annotator: str) -> int:
    shown = [one.first_shown for one in comparison.judgements if one.annotator == annotator]
    return {"a": A, "b": B, None: MISSING}[shown[-1] if shown else None]


def _tests(column: int, table: LabelTable, gold: Bools, first: NDArray[np.int64], longer: NDArray[np.int64], drawn: bool) -> list[Finding]:
    mine = table.latest[:, column]
    decided = (mine == A) | (mine == B)
    others = _majority_of_others(column, table)
    against = decided & ((others == A) | (others == B)) & (mine != others) & (longer != MISSING)
    found = [_agreement_test(column, table), _gold_test(column, table, gold)]
    if drawn:
        found.append(_half_test("first answer chosen", mine == first, decided & (first != MISSING), table, "two-sided"))
    else:
        certain = gold & ((table.gold == A) | (table.gold == B))
        found.append(_place_test(mine, first, decided & certain & (first != MISSING), table))
    found.append(_half_test("longer answer chosen against the others", mine == longer, against, table, "greater"))
    return [one for one in found if one is not None]


def _with_others(column: int, table: LabelTable) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pairs of labels (this annotator's and another's) that agree, and all such pairs, [comparison] each."""
    mine, others = table.latest[:, column, None], np.delete(table.latest, column, axis=1)
    both = (mine != MISSING) & (others != MISSING)
    return ((mine == others) & both).sum(axis=1).astype(np.float64), both.sum(axis=1).astype(np.float64)


def _agreement_test(column: int, table: LabelTable) -> Finding | None:
    """Is the agreement with the others lower than that among the others, on the comparisons this annotator judged too?

    One-sided t over groups of the linearised difference. Where no group differs from another (an annotator always contrary, say) there is
    no spread to go by: Fisher's exact test then, with one pair of labels a group.
    """
    from scipy.special import stdtr
    from scipy.stats import fisher_exact

    agreed, of = _with_others(column, table)
    rest = np.delete(table.latest, column, axis=1)
    votes = (rest[:, :, None] == np.arange(len(CHOICES))).sum(axis=1).astype(np.float64)
    votes[of == 0] = 0
    total = votes.sum(axis=1)
    theirs, their_pairs = (votes * (votes - 1)).sum(axis=1) / 2, total * (total - 1) / 2
    if min((of > 0).sum(), (their_pairs > 0).sum()) < FEWEST:
        return None
    with_me, without_me = agreed.sum() / of.sum(), theirs.sum() / their_pairs.sum()
    influence = (agreed - with_me * of) / of.sum() - (theirs - without_me * their_pairs) / their_pairs.sum()
    groups = group_codes([group for group, shared in zip(table.groups, of > 0, strict=True) if shared])
    by_group = np.bincount(groups, weights=influence[of > 0])
    size = len(by_group)
    error = float(np.sqrt((by_group**2).sum() * size / (size - 1))) if size > 1 else 0.0
    if error > 1e-12:
        p = float(stdtr(size - 1, (with_me - without_me) / error))
    else:
        mine, others = round(float(with_me) * size), round(float(without_me) * size)
        p = float(fisher_exact(np.array([[mine, size - mine], [others, size - others]]), alternative="less").pvalue)
    return Finding("agreement with the others", float(with_me), float(without_me), p)


def _gold_test(column: int, table: LabelTable, gold: Bools) -> Finding | None:
    from scipy.stats import fisher_exact

    labels = table.latest[gold]
    right = (labels == table.gold[gold][:, None]) & (labels != MISSING)
    given = labels != MISSING
    mine, of_mine = int(right[:, column].sum()), int(given[:, column].sum())
    rest, of_rest = int(right.sum()) - mine, int(given.sum()) - of_mine
    if min(of_mine, of_rest) < FEWEST:
        return None
    p = float(fisher_exact(np.array([[mine, of_mine - mine], [rest, of_rest - rest]]), alternative="less").pvalue)
    return Finding("gold tasks right", mine / of_mine, rest / of_rest, p)


def _half_test(test: str, values: Bools, keep: Bools, table: LabelTable, alternative: Literal["two-sided", "greater"]) -> Finding | None:
    """Exact binomial test against one half, on the effective number of judgements."""
    from scipy.stats import binomtest

    if keep.sum() < FEWEST:
        return None
    groups = [group for group, kept in zip(table.groups, keep, strict=True) if kept]
    chosen = values[keep].astype(np.float64)
    size = len(chosen) / design_effect(chosen, groups)
    p = float(binomtest(round(float(chosen.mean()) * size), max(1, round(size)), 0.5, alternative=alternative).pvalue)
    return Finding(test, float(chosen.mean()), 0.5, p)


def _place_test(mine: NDArray[np.int64], first: NDArray[np.int64], keep: Bools, table: LabelTable) -> Finding | None:
    """Are gold tasks missed as often whichever place the right answer was shown in? Fisher's exact test on effective numbers."""
    from scipy.stats import fisher_exact

    counts, shares = list[list[int]](), list[float]()
    for shown in (keep & (table.gold != first), keep & (table.gold == first)):
        if shown.sum() < FEWEST:
            return None
        missed = (mine != table.gold)[shown].astype(np.float64)
        size = len(missed) / design_effect(missed, [group for group, kept in zip(table.groups, shown, strict=True) if kept])
        shares.append(float(missed.mean()))
        counts.append([round(shares[-1] * size), round(size) - round(shares[-1] * size)])
    second, first_place = shares
    return Finding("gold tasks missed with the right answer second", second, first_place, float(fisher_exact(np.array(counts)).pvalue))


def _majority_of_others(column: int, table: LabelTable) -> NDArray[np.int64]:
    """The choice most of the others made, -1 where none leads."""
    votes = (np.delete(table.latest, column, axis=1)[:, :, None] == np.arange(len(CHOICES))).sum(axis=1)
    leads = (votes == votes.max(axis=1, keepdims=True)).sum(axis=1) == 1
    return np.asarray(np.where(leads & (votes.max(axis=1) > 0), votes.argmax(axis=1), MISSING))
