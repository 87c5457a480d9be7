"""Numbers as people write them: one value read from a field, or all of them found in running text."""

import math
import re
from dataclasses import dataclass
from typing import Any

SCALES = {"": 1.0, "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12, "percent": 0.01}
ABBREVIATIONS = {"k": "thousand", "m": "million", "mn": "million", "bn": "billion", "tn": "trillion", "%": "percent", "pct": "percent"}
_DIGITS = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(
    rf"""^\s*[$€£¥]?\s*(?P<open>\()?\s*(?P<sign>[-+−])?\s*[$€£¥]?\s*(?P<sign2>[-+−])?\s*
    (?P<digits>{_DIGITS})(?P<exponent>[eE][-+]?\d+)?
    \s*(?P<percent>%)?\s*(?P<close>\))?\s*(?P<percent2>%)?\s*(?P<word>thousand|million|billion|trillion|percent)?s?\s*$""",
    re.VERBOSE | re.IGNORECASE,
)
_IN_TEXT = re.compile(
    rf"""(?<![\w.,])(?P<open>\([ ]?)?(?P<sign>(?<![\w)%])[-+−])?(?:[$€£¥][ ]?)?(?P<sign2>(?<![\w)%])[-−])?(?<![\w.,])
    (?P<digits>{_DIGITS})(?![.,]?\d)
    (?P<scale>[ ]?%|[ \n]?(?:thousand|million|billion|trillion|percent|pct|per[ ]cent)(?!\w)|(?:k|m|mn|bn|tn)(?!\w))?
    (?(open)(?P<close>[ ]?\)[ ]?%?)?)(?!\w)""",
    re.VERBOSE | re.IGNORECASE,
)
_CODE = re.compile(r"(?<![\w.])[A-Za-z0-9_]+(?:[-/.:#@&]+[A-Za-z0-9_]+)*")
_PLAIN = re.compile(
    r"\d+(?:\.\d+)?(?:k|m|mn|bn|tn|st|nd|rd|th|s)?|\d+(?:\.\d+)?(?:[-/]\d+(?:\.\d+)?)?|\d+(?:\.\d+)?(?:-[a-z]+)+", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class FoundNumber:
    """A number at ``text[start:end]``. ``magnitude`` is without sign and scale; ``scale`` a key of :data:`SCALES`.

    ``sign`` is -1 or 1, or 0 for a number in parentheses, which may be negative, as in accounts, or an aside. ``decimals`` counts the
    digits after the point, ``digits`` the significant ones written.
    """

    text: str
    start: int
    end: int
    magnitude: float
    scale: str
    sign: int
    decimals: int
    digits: int

    @property
    def size(self) -> float:
        """The magnitude with its scale applied."""
        return self.magnitude * SCALES[self.scale]

    @property
    def unit(self) -> float:
        """What one step of the last digit written is worth, scale applied."""
        return float(10**-self.decimals) * SCALES[self.scale]


def find_numbers(text: str) -> list[FoundNumber]:
    """All numbers in a text, in order; digits within codes (:func:`find_codes`) and ordinals (``3rd``) are none.

    Reads ``1,234.5``, ``$ (3.2)``, ``-12 %``, ``1.5 million``, ``5bn``, ``1,496.5``; not numbers spelt out, nor ``1.234,5``.
    """
    codes = iter(_code_spans(text))
    code = next(codes, None)
    found = []
    for match in _IN_TEXT.finditer(text):
        start, end = match.span("digits")
        while code is not None and code[1] <= start:
            code = next(codes, None)
        if code is None or not code[0] <= start < code[1]:
            found.append(_found(match, start, end))
    return found


def _found(match: re.Match[str], start: int, end: int) -> FoundNumber:
    written = match["digits"].replace(",", "")
    word = re.sub(r"\s", "", (match["scale"] or "").lower()) or ("percent" if "%" in (match["close"] or "") else "")
    word = ABBREVIATIONS.get(word, "percent" if word == "percent" else word)
    minus = [sign for sign in (match["sign"], match["sign2"]) if sign and sign in "-−"]
    sign = -1 if len(minus) == 1 else 0 if match["open"] and match["close"] is not None else 1
    decimals = len(written.partition(".")[2])
    digits = len(written.replace(".", "").lstrip("0"))
    end = match.end("scale") if match["scale"] else end
    return FoundNumber(match.string[start:end], start, end, float(written), word, sign, decimals, digits)


def find_codes(text: str) -> list[str]:
    """Tokens with digits that are no plain numbers: ``INV-2031``, ``2019-03-31``, ``Q3``, ``3.2.1``, ``14:30``; in order."""
    return [text[start:end] for start, end in _code_spans(text)]


def _code_spans(text: str) -> list[tuple[int, int]]:
    spans = []
    for match in _CODE.finditer(text):
        token = match.group()
        if any(map(str.isdigit, token)) and not _PLAIN.fullmatch(token):
            spans.append(match.span())
    return spans


def number_in(value: Any, scale: Any = "") -> float | None:
    """The number a value stands for, scale and percent applied once; None when it is not one finite number.

    ``"$1,496.5"`` with ``"million"`` is 1.4965e9; ``"(3.2)"`` is -3.2 as in accounts; ``"22.2%"``, ``22.2`` with ``"percent"``
    and ``0.222`` are the same.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    factor = SCALES.get(scale.strip().lower() if isinstance(scale, str) else "") if scale is not None else 1.0
    if factor is None:
        return None
    if isinstance(value, str):
        match = _NUMBER.match(value)
        if not match or bool(match["open"]) != bool(match["close"]):
            return None
        number = float(match["digits"].replace(",", "") + (match["exponent"] or ""))
        minus = [sign for sign in (match["sign"], match["sign2"]) if sign in ("-", "−")]
        number *= -1.0 if bool(match["open"]) != (len(minus) == 1) else 1.0
        word = (match["word"] or ("percent" if match["percent"] or match["percent2"] else "")).lower()
        if word and factor in (1.0, SCALES[word]):
            factor = SCALES[word]
        elif word:
            factor *= SCALES[word]
    else:
        try:
            number = float(value)
        except OverflowError:
            return None
    number *= factor
    return number if math.isfinite(number) else None
