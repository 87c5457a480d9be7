"""Whether an answer states the expected facts: numbers by value, words by their text."""

import re
from collections.abc import Mapping
from typing import Any

NUMBER = re.compile(r"(?<![\w.,-])[-−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![\w]|[.,-]\d)")
"""A number by itself: no part of a word, an identifier or a date; commas only where they part thousands."""
TOLERANCE = 0.005
SHOWN = 3


def missing_facts(expected: Mapping[str, Any], text: str) -> list[str]:
    """What of ``expected`` an answer lacks, or says though it must not; empty when it is right.

    ``numbers``: each must stand in the text, to half a cent. ``contains``: each text must occur, whatever its case; a list is satisfied by
    any of its texts. ``excludes``: none of these may occur.
    """
    said = [float(one.group().replace(",", "").replace("−", "-")) for one in NUMBER.finditer(text)]
    missing = [str(number) for number in expected.get("numbers", ()) if not _among(number, said)]
    folded = " ".join(text.casefold().replace("’", "'").split())
    for wanted in expected.get("contains", ()):
        choices = [wanted] if isinstance(wanted, str) else list(wanted)
        if not any(choice.casefold() in folded for choice in choices):
            missing.append(" or ".join(f"'{choice}'" for choice in choices[:SHOWN]))
    return missing + [f"the absence of '{text}'" for text in expected.get("excludes", ()) if text.casefold() in folded]


def _among(number: float, said: list[float]) -> bool:
    return any(abs(number - one) <= TOLERANCE for one in said)
