"""Which positions of the cache hold what: bookkeeping of token ids, no tensors.

A request gets one extent of positions, a power of two of units long and aligned to its own length, so that extents never fragment and
rows of one size lie at equal distances. What a finished request computed stays until its place is wanted: least recently used goes first.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

UNIT = 16
"""Positions that are given out together."""
MIN_READ_ONCE = 64
"""A beginning common to several running rows is read once for all of them from this many tokens on."""
MIN_SHARED = 8
"""Fewer tokens in common than this are computed, not copied."""
ACTIVE = np.iinfo(np.int64).max


@dataclass(eq=False, slots=True)
class Extent:
    """Positions ``start..start+size``. ``tokens``: int32, ids whose keys and values lie there or, beyond ``computed``, will."""

    start: int
    size: int
    tokens: NDArray[np.int32]
    computed: int = 0
    is_active: bool = True
    used: int = 0


class Slots:
    """Gives out extents of ``num_positions``; at most ``max_extents`` finished and running ones are kept."""

    def __init__(self, num_positions: int, max_extents: int) -> None:
        self._num_units = max(1, num_positions // UNIT)
        self._max_extents = max_extents
        self._extents: list[Extent] = []
        self._stamps = np.zeros(self._num_units, np.int64)
        """When each unit was last used: 0 free, ACTIVE in use."""
        self._clock = 0

    @property
    def num_positions(self) -> int:
        """The longest request that fits."""
        return self._num_units * UNIT

    def match(self, tokens: NDArray[np.int32]) -> tuple[Extent | None, int]:
        """The extent that begins with most of ``tokens``, and how many those are; (None, 0) below MIN_SHARED."""
        best, length = None, MIN_SHARED - 1
        for extent in self._extents:
            common = num_common(extent.tokens, tokens)
            if common > length or (best is not None and common == length and best.is_active and not extent.is_active):
                best, length = extent, common
        return (best, length) if best is not None else (None, 0)

    def take(self, extent: Extent, tokens: NDArray[np.int32]) -> Extent:
        """Go on in a finished extent whose whole content ``tokens`` begin with."""
        extent.tokens, extent.is_active = tokens, True
        self._stamp(extent, ACTIVE)
        return extent

    def place(self, tokens: NDArray[np.int32], length: int) -> Extent | None:
        """A new extent for ``length`` positions in place of what was least recently used; None while running requests leave no room."""
        size = self._units_for(length)
        aligned = self._num_units // size * size
        cost = self._stamps[:aligned].reshape(-1, size).max(1)
        window = int(cost.argmin())
        if cost[window] == ACTIVE:
            return None
        extent = Extent(window * size * UNIT, size * UNIT, tokens)
        for other in [e for e in self._extents if e.start < extent.start + extent.size and extent.start < e.start + e.size]:
            self._drop(other)
        idle = [e for e in self._extents if not e.is_active]
        if idle and len(self._extents) >= self._max_extents:
            self._drop(min(idle, key=lambda e: e.used))
        self._extents.append(extent)
        self._stamp(extent, ACTIVE)
        return extent

    def release(self, extent: Extent, tokens: Sequence[int]) -> None:
        """The request has left; the extent holds keys and values of as many of its ``tokens`` as were computed."""
        extent.tokens, extent.is_active = np.array(tokens[: extent.computed], np.int32), False
        self.touch(extent)

    def touch(self, extent: Extent) -> None:
        """Count a use of a finished extent."""
        self._clock += 1
        extent.used = self._clock
        if not extent.is_active:
            self._stamp(extent, self._clock)

    def _units_for(self, length: int) -> int:
        units = max(1, -(-length // UNIT))
        return min(1 << (units - 1).bit_length(), self._num_units)

    def _stamp(self, extent: Extent, value: int) -> None:
        self._stamps[extent.start // UNIT : (extent.start + extent.size) // UNIT] = value

    def _drop(self, extent: Extent) -> None:
        self._extents.remove(extent)
        self._stamp(extent, 0)


def num_common(first: NDArray[np.int32], second: NDArray[np.int32]) -> int:
    """How many tokens two sequences have in common at their beginning."""
    shorter = min(len(first), len(second))
    differs = first[:shorter] != second[:shorter]
    return int(differs.argmax()) if differs.any() else shorter


def families(sequences: Sequence[list[int]]) -> list[tuple[list[int], int]]:
    """Put sequences that begin alike together: (their indices, tokens in common), 0 where that is less than MIN_READ_ONCE.

    The tokens that need not be read again, (members - 1) x (tokens in common) summed over families, are the most there can be.
    """
    order = sorted(range(len(sequences)), key=lambda index: sequences[index])
    arrays = [np.array(sequences[index], np.int32) for index in order]
    links = [num_common(first, second) for first, second in itertools.pairwise(arrays)]

    def best(start: int, end: int) -> tuple[int, list[tuple[list[int], int]]]:
        """What is saved among ``order[start:end]``: all as one family, or the best on either side of the weakest link."""
        if end - start < 2:
            return 0, [(order[start:end], 0)]
        weakest = min(range(start, end - 1), key=lambda link: links[link])
        left, right = best(start, weakest + 1), best(weakest + 1, end)
        saved = (end - start - 1) * links[weakest]
        if links[weakest] >= MIN_READ_ONCE and saved >= left[0] + right[0]:
            return saved, [(order[start:end], links[weakest])]
        return left[0] + right[0], left[1] + right[1]

    return best(0, len(order))[1] if order else []


def progressions(places: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Cut sorted (size, start) pairs into runs ``(number, stride)`` of one size at equal distances, so that a run is one strided view."""
    runs: list[tuple[int, int]] = []
    first = 0
    while first < len(places):
        size, start = places[first]
        end, stride = first + 1, size
        if end < len(places) and places[end][0] == size:
            stride = places[end][1] - start
            while end < len(places) and places[end] == (size, start + (end - first) * stride):
                end += 1
        runs.append((end - first, stride))
        first = end
    return runs
