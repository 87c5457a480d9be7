"""Texts as words and n-grams, hashed in bulk: what duplicate and contamination checks compare.

Words are case-folded, NFKC-normalised runs of letters and digits; commas and apostrophes are dropped ("1,496" is "1496"),
other punctuation separates ("1.5" is two words); each ideograph, kana or Hangul syllable is a word, as these scripts write no
blanks. Ids come from a vocabulary, so equal ids mean equal words; 64-bit hashes of n-grams only propose, ids decide.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from posttrain.records import (
    Comparison,
    Demonstration,
    FeedbackEvent,
    Message,
    PreferencePair,
    PromptOnly,
    Record,
    StepLabels,
    UnpairedLabel,
    VerifiableTask,
)

UNKNOWN = 0  # id of a word the vocabulary does not hold
BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so multiplication by it is a bijection of 64-bit words
Ids = NDArray[np.int64]
Hashes = NDArray[np.uint64]


_ASCII = bytes(code if chr(code).isalnum() else 32 for code in range(128)).lower().ljust(256, b" ")
_JOINS = re.compile("[,'’\u00ad\u200b\u200d]")
_MARKS = re.compile("[“”„‘–—…•·€£™®©]")
_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff]|[^\W_\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff]+"
)


def words(text: str) -> list[str]:
    """The words of a text, in order."""
    if not text.isascii():
        text = _MARKS.sub(" ", _JOINS.sub("", unicodedata.normalize("NFKC", text).casefold()))
    if text.isascii():
        return text.encode().translate(_ASCII, b",'").decode().split()
    return _WORD.findall(text)


def passage(text: str, first: int, last: int) -> str:
    """The part of the original text that holds words ``first`` to ``last`` (exclusive), blanks made single."""
    kept, at = [], 0
    for piece in text.split():
        held = len(words(piece))
        if at + held > first and at < last:
            kept.append(piece)
        at += held
    return " ".join(kept)


def speech(messages: Iterable[Message]) -> str:
    """What is said in messages, calls included, without the system prompt: a text to check for duplicates or leaks."""
    return "\n".join(_said(message) for message in messages if message.role != "system")


def _said(message: Message) -> str:
    calls = " ".join(f"{call.name} {dict(call.arguments)}" for call in message.tool_calls)
    return f"{message.content} {calls}" if calls else message.content


def sides(record: Record) -> tuple[str, str]:
    """(what is asked, what is answered) of a record, system prompt left out. A conversation's answer is its last turn."""
    match record:
        case Demonstration():
            return speech(record.messages[:-1]), speech(record.messages[-1:])
        case PreferencePair():
            return speech(record.prompt), speech((*record.chosen, *record.rejected))
        case Comparison():
            return speech(record.prompt), speech((*record.a, *record.b))
        case UnpairedLabel() | FeedbackEvent():
            return speech(record.prompt), speech(record.completion)
        case StepLabels():
            return speech(record.prompt), "\n".join(record.steps)
        case PromptOnly():
            return speech(record.prompt), ""
        case VerifiableTask():
            return speech(record.prompt), str(record.reference)


def segments(record: Record) -> list[str]:
    """Every separate text of a record: each message, system prompt too."""
    match record:
        case Demonstration():
            messages: Sequence[Message] = record.messages
        case PreferencePair():
            messages = (*record.prompt, *record.chosen, *record.rejected)
        case Comparison():
            messages = (*record.prompt, *record.a, *record.b)
        case UnpairedLabel() | FeedbackEvent():
            messages = (*record.prompt, *record.completion)
        case StepLabels() | VerifiableTask() | PromptOnly():
            messages = record.prompt
    rest = [sides(record)[1]] if isinstance(record, StepLabels | VerifiableTask) else []
    return [*(_said(message) for message in messages), *rest]


class Vocabulary:
    """Words to ids from 1; ``add`` learns, ``look_up`` gives :data:`UNKNOWN` for a word never added."""

    def __init__(self) -> None:
        self._ids: defaultdict[str, int] = defaultdict(lambda: len(self._ids) + 1)

    def add(self, text_words: Sequence[str]) -> Ids:
        """Ids of words, new words learnt."""
        return np.fromiter(map(self._ids.__getitem__, text_words), dtype=np.int64, count=len(text_words))

    def numbers(self) -> Ids:
        """Ids of the words that hold a digit, ascending."""
        return np.array([number for word, number in self._ids.items() if any(map(str.isdigit, word))], dtype=np.int64)

    def look_up(self, text_words: Sequence[str]) -> Ids:
        """Ids of words, unknown ones as 0."""
        return np.fromiter(map(self._ids.get, text_words, repeat(UNKNOWN)), dtype=np.int64, count=len(text_words))


@dataclass(frozen=True, slots=True)
class Grams:
    """The n-grams of several texts: hash, text number and position of the first word of each, in order."""

    hashes: Hashes
    owner: NDArray[np.int64]
    position: NDArray[np.int64]


def grams(texts: Sequence[Ids], size: int) -> Grams:
    """All runs of ``size`` known words that lie within one text. O(words x size), vectorised."""
    lengths = np.array([len(ids) for ids in texts], dtype=np.int64)
    flat = np.concatenate([np.zeros(0, dtype=np.int64), *texts])
    count = max(0, len(flat) - size + 1)
    owner = np.repeat(np.arange(len(texts)), lengths)
    start = np.repeat(np.cumsum(lengths) - lengths, lengths)
    mixed = scramble(flat.astype(np.uint64))
    hashes = np.zeros(count, dtype=np.uint64)
    known = np.ones(count, dtype=bool)
    for offset in range(size):
        window = slice(offset, offset + count)
        hashes = hashes * BASE + mixed[window]
        known &= flat[window] != UNKNOWN
    inside = known & (owner[:count] == owner[size - 1 : size - 1 + count])
    at = np.flatnonzero(inside)
    return Grams(hashes[at], owner[at], at - start[at])


def scramble(values: Hashes) -> Hashes:
    """SplitMix64's finaliser: spreads small integers over 64 bits (Steele, Lea, Flood 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def difference(a: Ids, b: Ids) -> tuple[Ids, Ids]:
    """What is left of two texts without their common beginning and end."""
    shorter = min(len(a), len(b))
    head = _agreement(a[:shorter], b[:shorter])
    tail = _agreement(a[head:][::-1][: shorter - head], b[head:][::-1][: shorter - head])
    return a[head : len(a) - tail], b[head : len(b) - tail]


def _agreement(a: Ids, b: Ids) -> int:
    """How many words agree from the start of two equally long texts."""
    differs = np.flatnonzero(a != b)
    return int(differs[0]) if len(differs) else len(a)
