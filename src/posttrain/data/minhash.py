"""Near duplicates by MinHash (Broder 1997) with banding, every proposed pair verified by its exact Jaccard similarity.

So a pair that is reported has the similarity said: precision is 1 by definition; recall is that of the banding, at least
:data:`RECALL` for a pair right at the threshold and higher above it.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

NUM_HASHES = 128
RECALL = 0.98
SEED = 20240917
CHUNK = 4096  # texts signed at once
Hashes = NDArray[np.uint64]
Pairs = NDArray[np.int64]  # [pair, 2]


def band_rows(threshold: float) -> int:
    """Rows a band: the most (fewest false proposals) that still finds a pair at ``threshold`` with probability RECALL."""
    fit = [rows for rows in range(1, NUM_HASHES // 2) if 1 - (1 - threshold**rows) ** (NUM_HASHES // rows) >= RECALL]
    return max(fit, default=1)


def band_keys(sets: Sequence[Hashes], threshold: float) -> Hashes:
    """uint64 [text, band]: equal keys in any band propose a pair. ``sets`` are sorted unique shingle hashes, none empty."""
    rows = band_rows(threshold)
    bands = NUM_HASHES // rows
    keys = np.zeros((len(sets), bands), dtype=np.uint64)
    mixer = np.uint64(0x9E3779B97F4A7C15)
    for start in range(0, len(sets), CHUNK):
        some = sets[start : start + CHUNK]
        offsets = np.concatenate([[0], np.cumsum([len(one) for one in some])]).astype(np.uint64)
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(np.concatenate(some), offsets, NUM_HASHES, SEED)
        signatures = np.array(matrix.to_rows(), dtype=np.uint64)[:, : bands * rows].reshape(len(some), bands, rows)
        key = np.arange(bands, dtype=np.uint64)[None, :] * mixer
        for row in range(rows):
            key = (key ^ signatures[:, :, row]) * mixer
            key ^= key >> np.uint64(29)
        keys[start : start + len(some)] = key
    return keys


def pairs_between(left: Hashes, right: Hashes) -> Pairs:
    """(left text, right text) that share a key in a band; each pair once."""
    found = [np.zeros((0, 2), dtype=np.int64)]
    for band in range(left.shape[1]):
        order = np.argsort(right[:, band], kind="stable")
        sorted_keys = right[order, band]
        low = np.searchsorted(sorted_keys, left[:, band], side="left")
        high = np.searchsorted(sorted_keys, left[:, band], side="right")
        found.append(np.stack([np.repeat(np.arange(len(left)), high - low), order[ranges(low, high)]], axis=1))
    return np.stack(unique_pairs(*np.concatenate(found).T), axis=1)


def pairs_within(keys: Hashes) -> Pairs:
    """Pairs (earlier, later) that share a key in a band, each text with the first of its bucket and with its neighbour there.

    A bucket of k texts proposes 2k pairs, not k squared: groups are joined through their links.
    """
    found = [np.zeros((0, 2), dtype=np.int64)]
    for band in range(keys.shape[1]):
        order = np.argsort(keys[:, band], kind="stable")
        ordered = keys[order, band]
        same = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1
        first = np.searchsorted(ordered, ordered[same], side="left")
        found += [np.stack([order[first], order[same]], axis=1), np.stack([order[same - 1], order[same]], axis=1)]
    pairs = np.sort(np.concatenate(found), axis=1)
    return np.stack(unique_pairs(*pairs[pairs[:, 0] != pairs[:, 1]].T), axis=1)


def unique_pairs(left: NDArray[np.int64], right: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The different (left, right) pairs of two aligned arrays of numbers from 0 to 2^31, in order."""
    width = np.int64(int(right.max(initial=0)) + 1)
    keys = np.unique(left * width + right)
    return keys // width, keys % width


def ranges(low: NDArray[np.int64], high: NDArray[np.int64]) -> NDArray[np.int64]:
    """low[0]..high[0]-1, low[1]..high[1]-1, ... as one array."""
    counts = high - low
    total = int(counts.sum())
    begin = np.repeat(low - (np.cumsum(counts) - counts), counts)
    return begin + np.arange(total)


def jaccard(left: Hashes, right: Hashes) -> float:
    """|A and B| / |A or B| of two sorted unique arrays; 0 when both are empty."""
    shared = len(np.intersect1d(left, right, assume_unique=True))
    union = len(left) + len(right) - shared
    return shared / union if union else 0.0


def verified(pairs: Pairs, left: Sequence[Hashes], right: Sequence[Hashes], threshold: float) -> Iterator[tuple[int, int, float]]:
    """The proposed pairs whose Jaccard similarity reaches the threshold, with it."""
    for a, b in pairs.tolist():
        one, other = left[a], right[b]
        if min(len(one), len(other)) < threshold * max(len(one), len(other)):
            continue  # the ratio of sizes bounds the similarity
        similarity = jaccard(one, other)
        if similarity >= threshold:
            yield a, b, similarity


def split_sets(hashes: Hashes, owner: NDArray[np.int64], count: int) -> list[Hashes]:
    """The sorted different hashes of each of ``count`` owners."""
    order = np.lexsort((hashes, owner))
    hashes, owner = hashes[order], owner[order]
    fresh = np.ones(len(hashes), dtype=bool)
    fresh[1:] = (hashes[1:] != hashes[:-1]) | (owner[1:] != owner[:-1])
    hashes, owner = hashes[fresh], owner[fresh]
    return np.split(hashes, np.searchsorted(owner, np.arange(1, count)))
