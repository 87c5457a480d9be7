"""Counterexamples out of right answers: pairs whose worse side has what a naive reward loves and lacks what matters.

A reward model that has seen them cannot take a pleasant tone, valid JSON or caution for quality.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

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
NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?![\w])")


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
    found = list(NUMBER.finditer(answer))
    if not found:
        return None
    one = rng.choice(found)
    return rng.choice(FLATTERY) + answer[: one.start()] + _other_number(one.group(), rng) + answer[one.end() :]


@kinds.register("legal_but_wrong")
def legal_but_wrong(answer: str, rng: random.Random) -> str | None:
    """One value of a JSON answer changed: keys, types and layout stay, so a schema check passes. None where the answer is no JSON."""
    try:
        value = json.loads(answer)
    except ValueError:
        return None
    if not isinstance(value, dict | list):
        return None
    places = [place for place in _leaves(value, ()) if _other_value(place[1], value, rng) is not None]
    if not places:
        return None
    path, old = rng.choice(places)
    holder = changed = json.loads(answer)
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = _other_value(old, value, rng)
    return json.dumps(changed, ensure_ascii=False, indent=2 if "\n" in answer else None)


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


def _leaves(value: Any, path: tuple[Any, ...]) -> list[tuple[tuple[Any, ...], Any]]:
    """(path, value) of everything that is neither list nor object."""
    if isinstance(value, dict):
        return [leaf for key, one in value.items() for leaf in _leaves(one, (*path, key))]
    if isinstance(value, list):
        return [leaf for position, one in enumerate(value) for leaf in _leaves(one, (*path, position))]
    return [(path, value)]


def _other_value(old: Any, whole: Any, rng: random.Random) -> Any:
    """Another value of the same type: a number moved, a truth turned, a text from elsewhere in the answer; None where there is none."""
    if isinstance(old, bool):
        return not old
    if isinstance(old, int):
        return int(_other_number(str(abs(old)), rng)) * (-1 if old < 0 else 1)
    if isinstance(old, float):
        return float(_other_number(f"{abs(old):.2f}", rng)) * (-1 if old < 0 else 1)
    if isinstance(old, str):
        if NUMBER.fullmatch(old):
            return _other_number(old, rng)
        others = sorted({one for _, one in _leaves(whole, ()) if isinstance(one, str) and one != old})
        return rng.choice(others) if others else None
    return None
