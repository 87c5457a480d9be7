"""Reads a generated turn piece by piece: literals with any white space around them, and strict JSON objects."""

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

MAX_DEPTH = 100
"""Objects and lists inside each other in a call. No tool takes more, and what reads a record goes down as deep as it is nested."""


class Unreadable(Exception):
    """What is wrong with a call, as a sentence the model can use."""


class Reader:
    """A place in a text. What is read moves it on; what cannot be read raises :class:`Unreadable` and leaves it where it is."""

    def __init__(self, text: str, place: int = 0) -> None:
        self.text, self.place = text, place

    def at(self, literal: str) -> bool:
        """Whether ``literal`` comes next."""
        return flexible(literal).match(self.text, self.place) is not None

    def accept(self, literal: str) -> bool:
        """Read ``literal`` if it comes next."""
        found = flexible(literal).match(self.text, self.place)
        self.place = found.end() if found else self.place
        return found is not None

    def expect(self, literal: str) -> None:
        """Read ``literal``, which has to come next."""
        if not self.accept(literal):
            seen, wanted = self.text[self.place :].strip(), literal.strip()
            if wanted.startswith(seen):
                raise Unreadable(f"The call is cut off: {wanted!r} is missing at its end.")
            raise Unreadable(f"The call is written wrongly: {wanted!r} is expected before {seen[:40]!r}.")

    def until(self, literal: str) -> str:
        """The text in front of the next ``literal``; both are read."""
        found = flexible(literal).search(self.text, self.place)
        if found is None:
            raise Unreadable(f"The call is cut off: {literal.strip()!r} is missing.")
        text, self.place = self.text[self.place : found.start()], found.end()
        return text

    def json_object(self, what: str) -> dict[str, Any]:
        """A JSON object: no duplicate keys, no NaN, no trailing commas."""
        begin = re.compile(r"\s*").match(self.text, self.place).end()  # type: ignore[union-attr]
        if not self.text.startswith("{", begin):
            seen = self.text[begin : begin + 40]
            raise Unreadable(f"{what} must be a JSON object, not {seen!r}." if seen else f"{what} is cut off: a JSON object is missing.")
        try:
            value, end = _DECODER.raw_decode(self.text, begin)
        except json.JSONDecodeError as error:
            raise Unreadable(f"{what} is not valid JSON: {_reason(error, self.text, begin)}.") from None
        except (ValueError, RecursionError) as error:
            raise Unreadable(f"{what} is not valid JSON: {error}.") from None
        if is_too_deep(value):
            raise Unreadable(f"{what} is nested more than {MAX_DEPTH} deep.")
        self.place = end
        return dict(value)


def is_too_deep(value: Any) -> bool:
    """Whether a JSON value is nested more than MAX_DEPTH deep."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [child for one in level if isinstance(one, dict | list) for child in (one.values() if isinstance(one, dict) else one)]
    return bool(level)


def _reason(error: json.JSONDecodeError, text: str, begin: int) -> str:
    if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string"):
        return "it is cut off"
    around = text[max(begin, error.pos - 15) : error.pos + 15]
    return f"{error.msg[0].lower()}{error.msg[1:]} at {around!r}"


@lru_cache(maxsize=256)
def flexible(literal: str) -> re.Pattern[str]:
    """A pattern for ``literal`` with any white space, or none, around it and wherever it has some."""
    return re.compile(r"\s*" + "".join(re.escape(word) + r"\s*" for word in literal.split()))


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [key for key, _ in pairs]
        raise ValueError(f"the key '{next(key for key in names if names.count(key) > 1)}' stands twice")
    return result


def no_constant(name: str) -> Any:
    """Refuses what Python reads and JSON does not have: NaN and the infinities."""
    raise ValueError(f"{name} is no JSON value")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=no_constant)
