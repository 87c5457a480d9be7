"""Is what an answer says in the evidence? Numbers, codes and quotes by rule; the rest by a judge, or not checked.

A claim is supported when every number, code and quote in it is in the evidence (numbers by value, at the precision they are written in).
That is necessary, not sufficient: a right number said of the wrong thing passes. What a question states itself proves nothing either way.
"""

import ast
import json
import math
import operator
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from posttrain.metrics.numbers import SCALES, FoundNumber, find_codes, find_numbers

Judge = Callable[[str, Sequence[str]], bool | None]
"""(claim, texts of the evidence) to supported, not supported, or None: cannot tell."""
Status = Literal["grounded", "unsupported", "not_checkable"]

MIN_QUOTED_WORDS = 3
CONSTANTS = (*range(13), 100)
"""What a shown calculation may use without evidence: numbers to average over, quarters, months, percent."""
_QUOTE = re.compile(r"[\"“«]([^\"“”«»]{1,2000})[\"”»]")
_ELLIPSIS = re.compile(r"\s*(?:\[?(?:\.\.\.|…)\]?)\s*")
_DATE = re.compile(r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})")
_PREFIXED = re.compile(r"(?:FY|CY|Q|H)(\d{1,4})", re.IGNORECASE)
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_EQUATION = re.compile(r"[\d(\[$€£¥−-][\d\s.,()\[\]$€£¥%+*/×÷−–x-]{2,200}=")
_OPERATORS: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


@dataclass(frozen=True, slots=True)
class GroundedClaim:
    """A claim, and why it is not supported: the numbers, codes and quotes that are not in the evidence."""

    text: str
    status: Status
    missing: tuple[str, ...] = ()


class Evidence:
    """Texts that may support a claim: tool results, passages, a report."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = tuple(texts)
        plain = [_plain(text) for text in texts]
        self._normal = [normal(text) for text in plain]
        self._numbers = [_readable_numbers(text) for text in plain]
        self._scales = [{scale for scale in SCALES if scale and _mentions(text, scale)} for text in self._normal]

    def holds_number(self, number: FoundNumber) -> bool:
        """Whether the number is there: the same value, or a more precise one that rounds to it.

        Where a text names a scale ("in millions"), its numbers without one also count with that scale, for a claim that has one
        ("1,496.5 million"). A number written negative needs a negative one, which may stand in parentheses; one without sign may take
        its sign from words.
        """
        return any(
            _agrees(number, known, scales)
            for numbers, scales in zip(self._numbers, self._scales, strict=True)
            for known in numbers
            if number.sign != -1 or known.sign != 1
        )

    def holds_digits(self, number: FoundNumber) -> bool:
        """Whether a number is there with the same magnitude, whatever its sign and scale."""
        return any(number.magnitude == known.magnitude for numbers in self._numbers for known in numbers)

    def holds_code(self, code: str) -> bool:
        """Whether the code is there as it stands; a date also in parts (``March 31, 2019``), ``FY2019`` and ``Q3`` also by their number."""
        wanted = re.compile(rf"(?<!\w){re.escape(normal(code))}(?!\w)")
        if any(wanted.search(text) for text in self._normal):
            return True
        if prefixed := _PREFIXED.fullmatch(code):
            return self.holds_number(find_numbers(prefixed[1])[0])
        if date := _DATE.fullmatch(code):
            return any(self._holds_date(at, *map(int, date.groups())) for at in range(len(self.texts)))
        return False

    def _holds_date(self, at: int, year: int, month: int, day: int) -> bool:
        numbers = {known.magnitude for known in self._numbers[at]}
        named = 1 <= month <= 12 and re.search(rf"\b{_MONTHS[month - 1]}", self._normal[at]) is not None
        return year in numbers and day in numbers and named

    def holds_quote(self, quote: str) -> bool:
        """Whether the words are there, in order, whatever their case, white space and quote marks; an ellipsis may leave words out."""
        parts = [part.strip(" .,;:!?") for part in _ELLIPSIS.split(normal(quote))]
        return any(_in_order([part for part in parts if part], text) for text in self._normal)


def ground_claim(claim: str, evidence: Evidence, *, given: Evidence | None = None, judge: Judge | None = None) -> GroundedClaim:
    """Check one claim. ``given``: what the question states, which is neither supported nor unsupported.

    A claim with nothing to check goes to ``judge``; without one, or where it cannot tell, it is not checkable.
    """
    quotes = [(match.group(1), match.span()) for match in _QUOTE.finditer(claim) if len(match.group(1).split()) >= MIN_QUOTED_WORDS]
    outside = claim
    for _, (start, end) in quotes:
        outside = outside[:start] + " " * (end - start) + outside[end:]
    numbers = find_numbers(outside)
    calculated = _calculated(outside, numbers, evidence)
    found: list[tuple[str, bool]] = []  # what is checked, and whether it is supported
    for quote, _ in quotes:
        if not (given and given.holds_quote(quote)) or evidence.holds_quote(quote):
            found.append((f'"{quote}"', evidence.holds_quote(quote)))
    for code in find_codes(outside):
        if not (given and given.holds_code(code)) or evidence.holds_code(code):
            found.append((code, evidence.holds_code(code)))
    for number in numbers:
        supported = number.start in calculated or evidence.holds_number(number)
        if supported or not (given and given.holds_number(number)):
            found.append((number.text, supported))
    missing = tuple(text for text, supported in found if not supported)
    if found:
        return GroundedClaim(claim, "unsupported" if missing else "grounded", missing)
    said = judge(claim, evidence.texts) if judge is not None else None
    return GroundedClaim(claim, "not_checkable" if said is None else "grounded" if said else "unsupported")


def _plain(text: str) -> str:
    """A text as it is; JSON as a line for each value, so that ``[100,200]`` is two numbers and a string is read without its escapes."""
    if not text.lstrip().startswith(("{", "[")):
        return text
    try:
        return "\n".join(_lines(json.loads(text)))
    except (ValueError, RecursionError):
        return text


def _lines(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield f"{key}:"
            yield from _lines(part)
    elif isinstance(value, list):
        for part in value:
            yield from _lines(part)
    else:
        yield value if isinstance(value, str) else json.dumps(value)


def normal(text: str) -> str:
    """NFKC, small letters, straight quotes, single spaces; the ``> `` of quoted lines dropped."""
    text = unicodedata.normalize("NFKC", re.sub(r"^> ?", "", text, flags=re.MULTILINE)).casefold()
    return " ".join(text.translate(str.maketrans("“”„«»’‘‐‑–—−", '"""""\'\'-----')).split())


def _mentions(normal_text: str, scale: str) -> bool:
    words = {"percent": r"%|\bper ?cent|\bpct\b", "thousand": r"\bthousands?\b|\b000s?\b", "million": r"\bmillions?\b|\bmn\b|[$€£¥] ?mm?\b"}
    return re.search(words.get(scale, rf"\b{scale}s?\b"), normal_text) is not None


def _readable_numbers(text: str) -> list[FoundNumber]:
    """The numbers of a text, and those in its dates."""
    dates = " ".join(" ".join(date) for date in _DATE.findall(text))
    return [*find_numbers(text), *find_numbers(dates)]


def _agrees(claimed: FoundNumber, known: FoundNumber, scales: set[str]) -> bool:
    factors = [SCALES[scale] for scale in scales] if claimed.scale and not known.scale else []
    return any(_same(claimed, known.size * factor, known.unit * factor) for factor in (1.0, *factors))


def _same(claimed: FoundNumber, known: float, known_unit: float) -> bool:
    apart = abs(claimed.size - known)
    if not math.isfinite(apart):  # hundreds of digits, as from a model that repeats one: no evidence holds that
        return False
    if apart <= 1e-9 * max(claimed.size, known):
        return True
    return claimed.digits >= 2 and known_unit < claimed.unit * (1 - 1e-9) and apart <= claimed.unit / 2 * (1 + 1e-9)


def _calculated(text: str, numbers: Sequence[FoundNumber], evidence: Evidence) -> set[int]:
    """Where the numbers start of calculations that are shown and right, their terms being in the evidence, in whatever scale:
    ``44.1 - 56.7 = -12.6``."""
    accounted: set[int] = set()
    for match in _EQUATION.finditer(text):
        terms = [number for number in numbers if match.start() <= number.start < match.end()]
        result = next((number for number in numbers if number.start >= match.end()), None)
        if result is None or len(terms) < 2 or re.search(r"[^\s$€£¥(−-]", text[match.end() : result.start]):
            continue
        if not all(term.magnitude in CONSTANTS or evidence.holds_digits(term) for term in terms):
            continue
        value = _evaluate(match.group()[:-1])
        if value is not None and _is_result(abs(value), result):
            accounted |= {result.start, *(term.start for term in terms)}
    return accounted


def _is_result(value: float, result: FoundNumber) -> bool:
    """Whether a value rounds to the result as written, in its own scale (44.1 - 56.7 = -12.6 million) or as a share (0.081 = 8.1 %)."""
    step = result.unit / SCALES[result.scale] / 2 * (1 + 1e-6)
    return abs(value - result.magnitude) <= step or abs(value - result.size) <= result.unit / 2 * (1 + 1e-6)


def _evaluate(expression: str) -> float | None:
    """The value of a sum written with + - * / and parentheses; None when it is none."""
    plain = re.sub(r"[\s,$€£¥]", "", expression).translate(str.maketrans("[]×x÷−–", "()**/--"))
    plain = re.sub(r"(\d(?:[\d.]*))%", r"(\1/100)", plain)
    try:
        return _value(ast.parse(plain, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, OverflowError, RecursionError, MemoryError):
        return None


def _value(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _OPERATORS:
            return _OPERATORS[type(sign)](_value(left), _value(right))
    raise ValueError("no sum")


def _in_order(parts: Sequence[str], text: str) -> bool:
    at = 0
    for part in parts:
        at = text.find(part, at)
        if at < 0:
            return False
        at += len(part)
    return bool(parts)
