"""Reading values out of a model's text: strict JSON, field paths, normal forms of text and numbers."""

import json
import unicodedata
from typing import Any

from posttrain.metrics import number_in

__all__ = ["MISSING", "field_at", "normal_text", "number_in", "output_field", "parse_json"]

MISSING = object()


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
