"""An index over the n-grams of suite cases: which of them a training text shares, and how much of a case a record covers."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from posttrain.data.minhash import ranges
from posttrain.data.words import Ids, Vocabulary, grams, words

FILTER_BITS = 22
Hashes = NDArray[np.uint64]
Numbers = NDArray[np.int64]


class SuiteIndex:
    """Runs of ``size`` words of all cases.

    Run k has hash ``hashes[k]``; entries ``starts[k]:starts[k + 1]`` of ``case`` and ``position`` say where it stands,
    and ``run`` is k in each of them.
    """

    def __init__(self, texts: Sequence[str], size: int) -> None:
        self.size = size
        self.vocabulary = Vocabulary()
        self.ids: list[Ids] = [self.vocabulary.add(words(text)) for text in texts]
        found = grams(self.ids, size)
        order = np.argsort(found.hashes, kind="stable")
        self.hashes, first = np.unique(found.hashes[order], return_index=True)
        self.starts = np.append(first, len(order)).astype(np.int64)
        self.run = np.repeat(np.arange(len(self.hashes)), np.diff(self.starts))
        self.case = found.owner[order]
        self.position = found.position[order]
        self.lengths = np.array([len(one) for one in self.ids], dtype=np.int64)
        self.offsets = np.cumsum(self.lengths) - self.lengths
        self.flat = np.concatenate([np.zeros(0, dtype=np.int64), *self.ids])
        self._by_case = np.argsort(self.case, kind="stable")
        self._case_bounds = np.searchsorted(self.case[self._by_case], np.arange(len(self.ids) + 1))
        self._filter = np.zeros(1 << FILTER_BITS, dtype=bool)
        self._filter[self.hashes >> np.uint64(64 - FILTER_BITS)] = True

    def shared_runs(self, texts: Sequence[Ids]) -> tuple[Numbers, Numbers]:
        """(text, run) for every place where a text holds a run of the suites, compared word by word."""
        found = grams(texts, self.size)
        maybe = np.flatnonzero(self._filter[found.hashes >> np.uint64(64 - FILTER_BITS)])
        run = np.searchsorted(self.hashes, found.hashes[maybe])
        run = np.minimum(run, max(0, len(self.hashes) - 1))
        equal = self.hashes[run] == found.hashes[maybe] if len(self.hashes) else np.zeros(0, dtype=bool)
        maybe, run = maybe[equal], run[equal]
        lengths = np.array([len(one) for one in texts], dtype=np.int64)
        flat = np.concatenate([np.zeros(0, dtype=np.int64), *texts])
        here = (np.cumsum(lengths) - lengths)[found.owner[maybe]] + found.position[maybe]
        entry = self.starts[run]
        there = self.offsets[self.case[entry]] + self.position[entry]
        same = np.ones(len(run), dtype=bool)
        for step in range(self.size):
            same &= flat[here + step] == self.flat[there + step]
        return found.owner[maybe][same], run[same]

    def longest_stretch(self, case: int, runs: Numbers) -> tuple[int, int]:
        """First and last (exclusive) word of the longest stretch of a case that ``runs`` cover without a gap."""
        mine = self._by_case[self._case_bounds[case] : self._case_bounds[case + 1]]
        positions = np.sort(self.position[mine[np.isin(self.run[mine], runs)]])
        stretches = np.split(positions, np.flatnonzero(np.diff(positions) > self.size) + 1)
        longest = max(stretches, key=lambda stretch: int(stretch[-1] - stretch[0]))
        return int(longest[0]), int(longest[-1]) + self.size


def coverage(index: SuiteIndex, record: Numbers, run: Numbers, own: NDArray[np.bool_], minimum: float) -> Iterator[tuple[int, int, float]]:
    """(case, record, share) where a record covers at least ``minimum`` of a case's own words, and at least ``index.size`` of them.

    ``record``, ``run``: which record holds which run. ``own``: the runs that are no boilerplate. A case's own words are those outside its
    boilerplate runs; a case with fewer than ``index.size`` of them must be covered whole.
    """
    before = _own_words(index, own)
    kept = own[run]
    record, run = record[kept], run[kept]
    entries = ranges(index.starts[run], index.starts[run + 1])
    row = np.repeat(record, index.starts[run + 1] - index.starts[run])
    case, position = index.case[entries], index.position[entries]
    order = np.lexsort((position, row, case))
    row, case, position = row[order], case[order], position[order]
    if not len(row):
        return
    last = np.ones(len(row), dtype=bool)
    last[:-1] = (row[1:] != row[:-1]) | (case[1:] != case[:-1])
    end = position + index.size
    end[:-1] = np.where(last[:-1], end[:-1], np.minimum(end[:-1], position[1:]))
    base = index.offsets[case]
    covered = before[base + end] - before[base + position]
    first = np.flatnonzero(np.concatenate([[True], last[:-1]]))
    words_covered = np.add.reduceat(covered, first)
    total = (before[index.offsets + index.lengths] - before[index.offsets])[case[first]]
    share = words_covered / np.maximum(total, 1)
    enough = (words_covered >= np.minimum(index.size, total)) & (share >= np.where(total < index.size, 1.0, minimum)) & (total > 0)
    for at in np.flatnonzero(enough).tolist():
        yield int(case[first[at]]), int(row[first[at]]), float(share[at])


def _own_words(index: SuiteIndex, own: NDArray[np.bool_]) -> Numbers:
    """How many words outside boilerplate come before each word of all cases (one entry more than words)."""
    steps = np.zeros(len(index.flat) + 1, dtype=np.int64)
    boilerplate = ~own[index.run]
    begin = index.offsets[index.case[boilerplate]] + index.position[boilerplate]
    np.add.at(steps, begin, 1)
    np.add.at(steps, begin + index.size, -1)
    return np.concatenate([[0], np.cumsum(np.cumsum(steps)[:-1] == 0)])
