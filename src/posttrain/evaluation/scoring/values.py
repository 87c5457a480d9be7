"""Reading values out of a model's text: strict JSON, field paths, normal forms of text and numbers."""

import json
import math
import re
import unicodedata
from typing import Any

SCALES = {"": 1.0, "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12, "percent": 0.01}
MISSING = object()
_NUMBER = re.compile(
    r"""^\s*[$€£¥]?\s*(?P<open>\()?\s*(?P<sign>[-+−])?\s*[$€£¥]?\s*(?P<sign2>[-+−])?\s*
    (?P<digits>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?P<exponent>[eE][-+]?\d+)?
    \s*(?P<percent>%)?\s*(?P<close>\))?\s*(?P<percent2>%)?\s*(?P<word>thousand|million|billion|trillion|percent)?s?\s*$""",
    re.VERBOSE | re.IGNORECASE,
)


def parse_json(text: str) -> tuple[Any, str]:
    """``(value, "")`` or ``(MISSING, why)``. Strict: no code fences, no text around, no NaN, no key twice."""
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_repeats), ""
    except json.JSONDecodeError as error:
        return MISSING, f"not JSON: {error.msg} at character {error.pos}"
    except (ValueError, RecursionError) as error:
        return MISSING, f"not JSON: {str(error)[:120] or type(error).__name__}"


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON value")


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key appears twice in one object")
    return result


def field_at(value: Any, path: str) -> Any:
    """The value at a dotted path (``answer``, ``rows.0.total``; empty is the whole), or :data:`MISSING`."""
    for part in path.split(".") if path else ():
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return MISSING
    return value


def output_field(text: str, path: str | None) -> tuple[Any, str]:
    """A field of the output read as JSON, or the stripped text itself when ``path`` is None; ``(MISSING, why)`` if absent."""
    if path is None:
        return text.strip(), ""
    value, why = parse_json(text)
    if value is MISSING:
        return MISSING, why
    found = field_at(value, path)
    return found, "" if found is not MISSING else f"the output has no field '{path}'"


def normal_text(value: Any) -> str:
    """Lower case, NFKC, no punctuation at word ends, no English articles, single spaces (as SQuAD normalises answers)."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    text = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    words = (word.strip(".,;:!?\"'()[]{}") for word in text.split())
    return " ".join(word for word in words if word and word not in ("a", "an", "the"))


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
