"""Unanswerable questions: a question of one report put to another report that, by rule, lacks its figures and its subject."""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from posttrain.data.tatqa import Item, Report, is_year, numbers_in, operands, words

# Words that say what to do with a figure rather than which figure: they never make a question answerable by themselves.
_GENERIC = words(
    """a about above across after all also among amount amounts an and any are as at average be been before between by calculated can
    change changes column compared comparing company companies consist considered contain decrease difference did do does due during each
    end ended exceed figure figures fiscal following for from given had has have high higher highest how if in included includes increase
    is it its largest less listed long low lower lowest main many more most much net number of on one or out over per percent percentage
    period periods portion proportion provided ratio reason recorded respective respectively row shown sum table than that the their there
    these they thousand thousands million millions billion this three to total two type types under used value values was were what when
    where which who why will with within year years"""
)
_GENERIC |= {word[:-1] for word in _GENERIC if word.endswith("s") and len(word) > 3}


@dataclass(frozen=True, slots=True)
class _Surface:
    """What stands in a report: its text in lower case, its numbers, its words without plural s, and its neighbouring words."""

    text: str
    numbers: set[str]
    stems: set[str]
    pairs: set[tuple[str, str]]


@functools.cache
def _surface(cells: tuple[tuple[str, ...], ...], paragraphs: tuple[str, ...]) -> _Surface:
    text = " ".join([*(" ".join(row) for row in cells), *paragraphs])
    stems = [_stem(word) for word in _words_in_order(text)]
    return _Surface(text.lower(), numbers_in(text), set(stems), set(pairwise(stems)))


@dataclass(frozen=True, slots=True)
class _Subject:
    """What a question is about: figures of its answer and operands, text answers, subject words, and subject words side by side."""

    figures: frozenset[str]
    spans: tuple[str, ...]
    stems: frozenset[str]
    pairs: frozenset[tuple[str, str]]


def _subject(item: Item) -> _Subject:
    answer = item.question.answer
    parts = answer if isinstance(answer, tuple) else (str(answer),)
    cells = [reference.partition(" ")[2] for reference in (item.evidence.references if item.evidence else ())]
    numbers = numbers_in(" ".join([*parts, *operands(item.question.derivation), *cells]))
    asked = [_stem(word) for word in _words_in_order(item.question.text)]
    stems = frozenset(word for word in asked if word not in _GENERIC and not word.isdigit() and len(word) > 1)
    return _Subject(
        figures=frozenset(number for number in numbers if not is_year(number) and float(number) >= 10),
        spans=() if isinstance(answer, int | float) else tuple(part.lower() for part in parts if not is_year(part)),
        stems=stems,
        pairs=frozenset(pair for pair in pairwise(asked) if stems.issuperset(pair)),
    )


def is_absent(item: Item, other: Report) -> bool:
    """Whether ``other`` lacks the figures and the subject of a question, by rule.

    Only questions with at least one figure (a number of the answer, derivation or evidence cells that is ten or more and no year)
    and two subject words (neither generic, such as "percentage change", nor numbers) are used. None of the figures occurs in
    ``other``, no text answer does, no two neighbouring subject words stand side by side there, and fewer than a third of the
    subject words occur at all. Years are no subject: nearly every report names 2019 and 2018.
    """
    return _lacks(_surface(other.cells, tuple(other.paragraphs.values())), _subject(item))


def _lacks(there: _Surface, asked: _Subject) -> bool:
    return (
        bool(asked.figures)
        and len(asked.stems) >= 2
        and asked.figures.isdisjoint(there.numbers)
        and asked.pairs.isdisjoint(there.pairs)
        and 3 * len(asked.stems & there.stems) < len(asked.stems)
        and not any(span in there.text for span in asked.spans)
    )


def absent_items(reports: Sequence[Report], usable: Mapping[str, Sequence[Item]], *, order: Callable[[str], str]) -> list[Item]:
    """One unanswerable question for each report: of all that pass :func:`is_absent`, the one sharing most words with it.

    ``usable`` holds the questions by report uid; each is given away once. ``order`` is a seeded key that breaks ties.
    """
    donors = {item.id: (item, _subject(item), words(item.question.text)) for report in reports for item in usable[report.uid]}
    items = []
    for report in sorted(reports, key=lambda r: order(r.uid)):
        surface = _surface(report.cells, tuple(report.paragraphs.values()))
        here = words(surface.text)
        passing = [key for key, (item, subject, _) in donors.items() if item.report.uid != report.uid and _lacks(surface, subject)]
        if passing:
            shares = {key: len(donors[key][2] & here) / len(donors[key][2]) for key in passing}
            best = max(passing, key=lambda key, shares=shares: (shares[key], order(key)))  # type: ignore[misc]
            items.append(Item(report, donors.pop(best)[0].question, None))
    return items


def _words_in_order(text: str) -> list[str]:
    return re.findall(r"[a-z]+|\d+", text.lower())


def _stem(word: str) -> str:
    return word[:-1] if word.endswith("s") and len(word) > 3 else word
