"""Where sentences begin and end, as character spans of the text itself."""

import re

Span = tuple[int, int]

_END = re.compile(r"(?<![.!?…])[.!?…]++[\"'”’)\]]*+(?=\s)|(?<=:)\n|\n(?=[ \t]*(?:\n|[-*•+][ \t]|\d{1,3}[.)][ \t]|[#>|]))|[。！？]")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\[\"'“])(?:[A-Za-z]|e\.g|i\.e|a\.m|p\.m|U\.S|U\.K|mr|mrs|ms|dr|prof|st|vs|etc|inc|ltd|co|corp|approx|cf|al"
    r"|jan|feb|mar|apr|jun|jul|aug|sep|sept|oct|nov|dec)\.$",
    re.IGNORECASE,
)
_BEFORE_NUMBER = re.compile(r"(?:^|[\s(\[])(?:nos?|fig|para|sec|art)\.$", re.IGNORECASE)
_LIST_NUMBER = re.compile(r"^[ \t]*\d{1,3}\.$", re.MULTILINE)
_BLANK_LINE = re.compile(r"\n[ \t\r]*\n\s*")


def paragraph_spans(text: str) -> list[Span]:
    """Spans of the parts between blank lines, without outer white space, in order."""
    return _parts(text, 0, len(text), [match.span() for match in _BLANK_LINE.finditer(text)])


def sentence_spans(text: str, start: int = 0, end: int | None = None) -> list[Span]:
    """Spans of the sentences of ``text[start:end]``, without outer white space, in order; together they hold everything but blanks.

    A sentence ends at ``. ! ? …`` before white space (not after an abbreviation, an initial, or where a small letter follows), at
    a blank line, at a line's end after a colon, and before a list item or heading.
    """
    stop = len(text) if end is None else end
    cuts = [(match.end(), match.end()) for match in _END.finditer(text, start, stop) if _ends_sentence(text, match, start, stop)]
    return _parts(text, start, stop, cuts)


def _ends_sentence(text: str, match: re.Match[str], start: int, stop: int) -> bool:
    mark = match.group()
    if mark[0] in "\n。！？":
        return True
    following = text[match.end() : min(stop, match.end() + 40)].lstrip()
    if following[:1].islower():
        return False
    patterns = [_ABBREVIATION, _LIST_NUMBER, *([_BEFORE_NUMBER] if following[:1].isdigit() else [])]
    return mark != "." or not any(pattern.search(text, max(start, match.start() - 12), match.end()) for pattern in patterns)


def _parts(text: str, start: int, stop: int, cuts: list[Span]) -> list[Span]:
    found = []
    for cut_start, cut_end in [*cuts, (stop, stop)]:
        span = _stripped(text, start, cut_start)
        if span[0] < span[1]:
            found.append(span)
        start = cut_end
    return found


def _stripped(text: str, start: int, end: int) -> Span:
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), start + len(part.rstrip())
