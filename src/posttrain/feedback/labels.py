"""The judgements of many comparisons as one array, and the check that they were made under one rubric."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from posttrain.data.comparisons import check_one_rubric
from posttrain.errors import DataError
from posttrain.metrics.dawid_skene import MISSING, DawidSkene, dawid_skene
from posttrain.records import CHOICES, Comparison, Judgement

FEWEST = 10  # comparisons from which something is said of one annotator
PRIOR_COUNTS = 0.25 + 2 * np.eye(len(CHOICES))
"""As if every annotator had judged three comparisons of each kind before, four of five right."""
A, B, TIE = range(3)
"""Codes of a choice, as :data:`CHOICES` orders them."""
_SWAPPED = np.array([B, A, TIE, MISSING])  # MISSING is -1 and indexes the last


@dataclass(frozen=True, slots=True)
class LabelTable:
    """``codes`` int [comparison, annotator, repeat] and ``gold`` int [comparison], -1 where there is none; a group shares a prompt."""

    annotators: tuple[str, ...]
    codes: NDArray[np.int64]
    gold: NDArray[np.int64]
    groups: tuple[str, ...]

    @property
    def latest(self) -> NDArray[np.int64]:
        """int [comparison, annotator]: the latest judgement of each annotator."""
        given = (self.codes != MISSING).sum(axis=2)
        last = np.maximum(given - 1, 0)
        return np.asarray(np.take_along_axis(self.codes, last[:, :, None], axis=2)[:, :, 0])


def label_table(comparisons: Sequence[Comparison]) -> LabelTable:
    """The table of all judgements. Comparisons of one prompt are a group: they rise and fall together. Raises DataError on two rubrics."""
    check_one_rubric(comparisons)
    annotators = tuple(sorted({one.annotator for comparison in comparisons for one in comparison.judgements}))
    column = {name: number for number, name in enumerate(annotators)}
    by_annotator = [Counter(one.annotator for one in comparison.judgements) for comparison in comparisons]
    repeats = max((count for counts in by_annotator for count in counts.values()), default=1)
    codes = np.full((len(comparisons), len(annotators), repeats), MISSING, dtype=np.int64)
    for row, comparison in enumerate(comparisons):
        seen: Counter[str] = Counter()
        for judgement in comparison.judgements:
            codes[row, column[judgement.annotator], seen[judgement.annotator]] = CHOICES.index(judgement.choice)
            seen[judgement.annotator] += 1
    gold = np.array([MISSING if one.gold is None else CHOICES.index(one.gold) for one in comparisons], dtype=np.int64)
    return LabelTable(annotators, codes, gold, tuple(prompt_group(one) for one in comparisons))


def dawid_skene_fit(table: LabelTable) -> tuple[DawidSkene, NDArray[np.int64], NDArray[np.bool_]] | None:
    """The fit, the confusion matrix that is each annotator's, and whether it is theirs alone; None where nobody can be checked.

    Annotators who share fewer than :data:`FEWEST` comparisons (with others or with gold tasks) are taken as one, the last row: too
    little is known of each alone. Every matrix begins with the pseudo-counts :data:`PRIOR_COUNTS`.

    Which answer is a and which is b says nothing, so every comparison is taken a second time with its sides swapped: swapped sides give
    swapped posteriors, and two equally good annotators who differ give one half. The matrices returned are those of the labels as given.
    """
    given = table.latest != MISSING
    checked = (given.sum(axis=1) >= 2) | (table.gold != MISSING)
    if not (checked & given.any(axis=1)).any():
        return None
    known = (given & checked[:, None]).sum(axis=0) >= FEWEST
    rows = np.where(known, np.cumsum(known) - 1, known.sum())
    alone, rest = table.latest[:, known], table.latest[:, ~known]
    codes = np.full((len(given), alone.shape[1] + 1, max(1, rest.shape[1])), MISSING)
    codes[:, :-1, 0], codes[:, -1, : rest.shape[1]] = alone, rest
    codes = codes[:, : rows.max() + 1]
    both, gold = np.concatenate((codes, _SWAPPED[codes])), np.concatenate((table.gold, _SWAPPED[table.gold]))
    fit = dawid_skene(both, len(CHOICES), known=gold, smoothing=2 * PRIOR_COUNTS)
    posterior = fit.posterior[: len(codes)]
    votes = (codes[..., None] == np.arange(len(CHOICES))).sum(axis=2)
    counts = np.einsum("it,ial->atl", posterior, votes) + PRIOR_COUNTS
    confusion = counts / counts.sum(axis=2, keepdims=True)
    return replace(fit, posterior=posterior, confusion=confusion, objective=fit.objective / 2), rows, known


def prompt_group(comparison: Comparison) -> str:
    """What comparisons of one prompt have in common."""
    return "\0".join(f"{message.role}:{message.content}" for message in comparison.prompt)


def judgements_of(comparisons: Sequence[Comparison]) -> list[tuple[Comparison, Judgement]]:
    """Every judgement with its comparison."""
    return [(comparison, judgement) for comparison in comparisons for judgement in comparison.judgements]


def of_rubric(comparisons: Sequence[Comparison], version: str) -> list[Comparison]:
    """The comparisons with only the judgements made under one rubric version; those left with none are gone.

    Raises DataError, naming the versions that are there, when it is none of them.
    """
    versions = {judgement.rubric for _, judgement in judgements_of(comparisons)}
    if version not in versions:
        raise DataError(f"no judgement was made under rubric '{version}'", hint=f"known: {', '.join(sorted(versions)) or 'none'}")
    kept = [replace(one, judgements=tuple(j for j in one.judgements if j.rubric == version)) for one in comparisons]
    return [one for one in kept if one.judgements]
