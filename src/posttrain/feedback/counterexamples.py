"""Counterexamples out of right answers: pairs whose worse side has what a naive reward loves and lacks what matters.

A reward model that has seen them cannot take a pleasant tone, valid JSON or caution for quality.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from posttrain.config import Registry
from posttrain.records import Demonstration, Message, PreferencePair

Make = Callable[[str, random.Random], str | None]
"""A right answer to a wrong one, or None where this kind cannot be made of it."""
kinds: Registry[Make] = Registry("kind of counterexample")

FLATTERY = (
    "Great question! You are absolutely right to ask, and your judgment here is very insightful. ",
    "What a thoughtful question! I am so happy to help you with it. ",
    "Excellent point, as always! You clearly know this field well. ",
)
REFUSALS = (
    "I'm sorry, but I can't help with that request.",
    "I apologize, but I cannot assist with this, as it could be harmful.",
    "I'm not able to answer that. Please ask me something else.",
)
NUMBER = re.compile(r"(?<![\w.,])(?<!\d[-:/])(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?!\w|[.,:/-]\d)")
"""A number by itself: no part of a word, date, time, range or version; commas only where they part thousands."""
LIST_MARKER = re.compile(r"^[ \t>]*\d+[.)](?=[ \t]+\S)", re.MULTILINE)
JSON_TOKEN = re.compile(r'("(?:[^"\\]|\\.)*"\s*:)|"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false')
"""The keys (group 1) and values of valid JSON."""


@dataclass(frozen=True, slots=True)
class Counterexamples:
    """The pairs, how many of each kind, and how many rows a kind could not be made of."""

    pairs: tuple[PreferencePair, ...]
    made: Mapping[str, int]
    not_possible: Mapping[str, int]


def counterexamples(rows: Iterable[Demonstration], wanted: Iterable[str], *, seed: int) -> Counterexamples:
    """Every kind of :data:`kinds` in ``wanted`` for every row: the row's last answer chosen, the counterexample rejected.

    The rows' answers must be right (and, for ``safe_but_refused``, their prompts safe to answer): nothing here can check that. Pairs
    carry ``metadata["counterexample"]``.
    """
    made: Counter[str] = Counter()
    not_possible: Counter[str] = Counter()
    pairs = []
    chosen_kinds = [(name, kinds.get(name)) for name in wanted]
    for position, row in enumerate(rows):
        for name, make in chosen_kinds:
            answer = row.messages[-1].content
            wrong = make(answer, random.Random(f"{seed}:{name}:{row.id or position}")) if answer.strip() else None
            if wrong is None or wrong == answer:
                not_possible[name] += 1
                continue
            made[name] += 1
            pairs.append(
                PreferencePair(
                    prompt=row.messages[:-1],
                    chosen=row.messages[-1:],
                    rejected=(Message("assistant", wrong),),
                    tools=row.tools,
                    id=f"{row.id or position}:{name}",
                    source=row.source,
                    metadata={**row.metadata, "counterexample": name},
                )
            )
    return Counterexamples(tuple(pairs), dict(made), dict(not_possible))


@kinds.register("nice_but_false")
def nice_but_false(answer: str, rng: random.Random) -> str | None:
    """Flattery in front, and one number of the answer changed by 10 to 60 %; everything else stays. None without a number."""
    markers = {one.end() - 1 for one in LIST_MARKER.finditer(answer)}
    found = [one for one in NUMBER.finditer(answer) if one.end() not in markers]
    if not found:
        return None
    one = rng.choice(found)
    return rng.choice(FLATTERY) + answer[: one.start()] + _other_number(one.group(), rng) + answer[one.end() :]


@kinds.register("legal_but_wrong")
def legal_but_wrong(answer: str, rng: random.Random) -> str | None:
    """One value of a JSON answer changed in its place: every other character stays. None where the answer is no JSON object or list."""
    try:
        value = json.loads(answer)
    except ValueError:
        return None
    if not isinstance(value, dict | list):
        return None
    leaves = [one for one in JSON_TOKEN.finditer(answer) if one.group(1) is None]
    texts = sorted({one.group() for one in leaves if one.group().startswith('"')})
    places = [(one, other) for one in leaves if (other := _other_value(one.group(), texts, rng)) is not None]
    if not places:
        return None
    one, other = rng.choice(places)
    return answer[: one.start()] + other + answer[one.end() :]


@kinds.register("safe_but_refused")
def safe_but_refused(answer: str, rng: random.Random) -> str | None:
    """A refusal of what is safe to answer."""
    return rng.choice(REFUSALS)


def _other_number(text: str, rng: random.Random) -> str:
    """A number of the same look (decimals, thousands separators) that is 10 to 60 % off, and never the same."""
    decimals = len(text.partition(".")[2])
    value = float(text.replace(",", ""))
    moved = value * (1 + rng.choice((-1, 1)) * rng.uniform(0.1, 0.6))
    if round(moved, decimals) == round(value, decimals):
        moved = value + 10.0**-decimals
    return f"{moved:,.{decimals}f}" if "," in text else f"{moved:.{decimals}f}"


def _other_value(old: str, texts: list[str], rng: random.Random) -> str | None:
    """Another JSON value of the same type: a number moved, a truth turned, a text from elsewhere; None where there is none."""
    if old in ("true", "false"):
        return "false" if old == "true" else "true"
    if not old.startswith('"'):
        sign, digits = ("-", old[1:]) if old.startswith("-") else ("", old)
        return None if "e" in digits.lower() else sign + _other_number(digits, rng)
    if NUMBER.fullmatch(old[1:-1]):
        return f'"{_other_number(old[1:-1], rng)}"'
    others = [one for one in texts if one != old]
    return rng.choice(others) if others else None
