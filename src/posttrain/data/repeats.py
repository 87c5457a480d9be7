"""Exact and near duplicates inside a training set.

Two records are exact duplicates when all they say is equal up to blanks. They are near duplicates when the whole reads nearly the same
*and* the answers read nearly the same: six questions about one report share most of their words and are six different rows.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from posttrain.data.minhash import Hashes, band_keys, jaccard, pairs_within, split_sets, verified
from posttrain.data.words import Ids, Vocabulary, difference, grams, segments, sides, words
from posttrain.records import Record, StepLabels, UnpairedLabel

SHINGLE = 3  # words a shingle
TELLING_ANSWER = 20  # words from which two nearly equal answers tell enough by themselves
SMALL_CHANGE = 2  # words of a question that may differ where the answers are short and equal
SAME_WORDS = 0.5  # share of the words of the part that differs which must agree


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Record ``dropped`` repeats the earlier record ``kept`` (positions from 0); similarity 1 is exact, else the Jaccard similarity."""

    kept: int
    dropped: int
    similarity: float


@dataclass(frozen=True, slots=True)
class DuplicateReport:
    """Every record that repeats an earlier one that stays."""

    num_records: int
    exact: tuple[Duplicate, ...]
    near: tuple[Duplicate, ...]
    near_jaccard: float

    @property
    def dropped(self) -> frozenset[int]:
        """Positions of the records to leave out."""
        return frozenset(duplicate.dropped for duplicate in (*self.exact, *self.near))

    def to_dict(self) -> dict[str, object]:
        """Plain JSON types, for the report and the lineage."""
        near = [[one.kept, one.dropped, round(one.similarity, 4)] for one in self.near]
        exact = [[one.kept, one.dropped] for one in self.exact]
        return {"num_records": self.num_records, "near_jaccard": self.near_jaccard, "exact": exact, "near": near}


def duplicates(records: Iterable[Record], *, near_jaccard: float = 0.85) -> DuplicateReport:
    """Find duplicates; the first of its kind stays. Memory: about 16 bytes a word. ``near_jaccard`` 1 finds exact ones only."""
    exact: list[Duplicate] = []
    seen: dict[bytes, int] = {}
    vocabulary = Vocabulary()
    asked: list[Ids] = []
    answered: list[Ids] = []
    position: list[int] = []
    count = 0
    for count, record in enumerate(records, 1):
        first = seen.setdefault(_digest(record), count - 1)
        if first != count - 1:
            exact.append(Duplicate(first, count - 1, 1.0))
        elif near_jaccard < 1.0:
            prompt, completion = sides(record)
            asked.append(vocabulary.add(words(prompt)))
            answered.append(vocabulary.add(words(completion)))
            position.append(count - 1)
    near = _near(asked, answered, vocabulary.numbers(), near_jaccard)
    return DuplicateReport(
        num_records=count,
        exact=tuple(exact),
        near=tuple(Duplicate(position[one.kept], position[one.dropped], one.similarity) for one in near),
        near_jaccard=near_jaccard,
    )


def _digest(record: Record) -> bytes:
    """A hash of all that is said, blanks made single, with labels: the same answer called good and bad is no duplicate."""
    said = [" ".join(text.split()) for text in segments(record)]
    if isinstance(record, UnpairedLabel):
        said.append(str(record.label))
    if isinstance(record, StepLabels):
        said.append(str(record.labels))
    return hashlib.blake2b("\0".join([type(record).__name__, *said]).encode(), digest_size=16).digest()


def _near(asked: Sequence[Ids], answered: Sequence[Ids], numbers: Ids, threshold: float) -> list[Duplicate]:
    whole = [np.concatenate([prompt, answer]) for prompt, answer in zip(asked, answered, strict=True)]
    sets = shingle_sets(whole, SHINGLE)
    long = [number for number, one in enumerate(sets) if len(one)]
    if len(long) < 2:
        return []
    long_sets = [sets[number] for number in long]
    pairs = pairs_within(band_keys(long_sets, threshold))
    proposed = sorted(((long[b], long[a], s) for a, b, s in verified(pairs, long_sets, long_sets, threshold)), key=lambda pair: pair[:2])
    dropped: set[int] = set()
    found = []
    for later, earlier, similarity in proposed:
        if later in dropped or earlier in dropped:
            continue
        sure = _answers_agree(answered[earlier], answered[later], threshold)
        if sure or (sure is None and _same_question(asked[earlier], asked[later], numbers)):
            dropped.add(later)
            found.append(Duplicate(earlier, later, similarity))
    return found


def _answers_agree(a: Ids, b: Ids, threshold: float) -> bool | None:
    """True or False where two answers tell; None where they agree but are too short to tell by themselves."""
    one, other = shingle_sets([a, b], SHINGLE)
    agree = jaccard(one, other) >= threshold if len(one) and len(other) else np.array_equal(a, b)
    if not agree:
        return False
    return True if min(len(a), len(b)) >= TELLING_ANSWER else None


def _same_question(a: Ids, b: Ids, numbers: Ids) -> bool:
    """Whether the part in which two prompts differ is small or alike, and speaks of the same numbers."""
    left, right = difference(a, b)
    if len(np.setxor1d(np.intersect1d(left, numbers), np.intersect1d(right, numbers))):
        return False
    if max(len(left), len(right)) <= SMALL_CHANGE:
        return True
    return len(np.intersect1d(left, right)) >= SAME_WORDS * len(np.union1d(left, right))


def shingle_sets(texts: Sequence[Ids], size: int) -> list[Hashes]:
    """The sorted different shingle hashes of each text; empty for a text of fewer than ``size`` words."""
    found = grams(texts, size)
    return split_sets(found.hashes, found.owner, len(texts))
