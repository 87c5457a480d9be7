"""Reads a generated turn piece by piece: literals with any white space around them, and strict JSON objects."""

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any


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
        self.place = end
        return dict(value)


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


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
