"""Citations in an answer: ``[document:start-end]`` or ``[document]``, and whether they name something that was retrieved."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from posttrain.tools.retrieval.passages import Hit, Passage
from posttrain.tools.retrieval.sentences import Span, sentence_spans

_ONE = r"[^\s\[\](){},;\"'>]{1,200}"
_SPANNED = rf"{_ONE}:\d{{1,12}}-\d{{1,12}}"
_BRACKETS = re.compile(rf"\[({_SPANNED}(?:[;,]\s*{_SPANNED})*|{_ONE})\](?!\()")
_PART = re.compile(r"(?P<document>.+?)(?::(?P<start>\d+)-(?P<end>\d+))?")
_MARK_LINE = re.compile(rf"^\[({_SPANNED})\]$", re.MULTILINE)
_LIST_MARK = re.compile(r"^(?:[-*•+#>]+|\d{1,3}[.)])\s+")


@dataclass(frozen=True, slots=True)
class Citation:
    """A citation as it stands at ``position`` of a text. ``start`` and ``end`` are None where a whole document is cited."""

    document: str
    start: int | None = None
    end: int | None = None
    position: int = 0

    def __str__(self) -> str:
        return f"[{self.document}]" if self.start is None else f"[{self.document}:{self.start}-{self.end}]"


@dataclass(frozen=True, slots=True)
class CitationCheck:
    """Citations of something retrieved, and of anything else; of the claims, ``num_covered`` have one of the first kind."""

    cited: tuple[Citation, ...]
    unknown: tuple[Citation, ...]
    num_claims: int
    num_covered: int

    @property
    def coverage(self) -> float | None:
        """Share of claims with a citation of something retrieved."""
        return self.num_covered / self.num_claims if self.num_claims else None


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence that states something; ``text`` without its citations and list mark, which are in ``citations``."""

    text: str
    citations: tuple[Citation, ...]


def find_citations(text: str) -> list[Citation]:
    """All citations in a text, in order. Several may share brackets when all have spans: ``[a:0-10; b:5-9]``.

    A Markdown link ``[text](address)`` is none; nor are brackets around several words.
    """
    found = []
    for match in _BRACKETS.finditer(text):
        for part in re.split(r"[;,]\s*", match.group(1)):
            one = _PART.fullmatch(part)
            if one is not None:
                start, end = (int(one["start"]), int(one["end"])) if one["start"] else (None, None)
                found.append(Citation(one["document"], start, end, match.start()))
    return found


def find_claims(text: str) -> list[Claim]:
    """The sentences of an answer that state something: not questions, headings ("...:") or bare citations.

    A citation after the full stop belongs to the sentence before it: ``It is 5. [a:0-9]``.
    """
    claims: list[Claim] = []
    before = 0
    for start, end in sentence_spans(text):
        sentence = text[start:end]
        citations = tuple(find_citations(sentence))
        words = _LIST_MARK.sub("", without_citations(sentence)).strip()
        if claims and "\n" not in text[before:start]:
            leading = _end_of_leading(sentence)
            first = tuple(one for one in citations if one.position < leading)
            claims[-1] = Claim(claims[-1].text, claims[-1].citations + first)
            citations = citations[len(first) :]
        if re.search(r"\w", words) and not words.rstrip("\"'”’)*_ ").endswith(("?", ":")):
            claims.append(Claim(words, citations))
        before = end
    return claims


def _end_of_leading(sentence: str) -> int:
    """Where the citations that a sentence begins with end; 0 when it begins with none."""
    end = 0
    while match := _BRACKETS.match(sentence, end):
        end = match.end()
        while end < len(sentence) and sentence[end] in " \t":
            end += 1
    return end


def without_citations(text: str) -> str:
    """The text without its citations."""
    return re.sub(r"[ \t]+(?=[.,;:!?])", "", re.sub(r"[ \t]{2,}", " ", _BRACKETS.sub("", text)))


def retrieved_spans(text: str) -> list[Citation]:
    """The passages that a tool result (or a prompt) shows, by their marks on lines of their own, as ``search_tool`` writes them.

    What is quoted cannot add to them: its lines begin with ``>``.
    """
    return [citation for match in _MARK_LINE.finditer(text) for citation in find_citations(match.group())]


def check_citations(text: str, retrieved: Sequence[Hit | Passage | Citation]) -> CitationCheck:
    """Compare the citations of an answer with what was retrieved.

    A citation with a span is known when the span lies in one retrieved passage; one without, when a passage of the document was retrieved.
    """
    spans: dict[str, list[Span]] = {}
    for one in retrieved:
        passage = one.passage if isinstance(one, Hit) else one
        if passage.start is not None and passage.end is not None:
            spans.setdefault(passage.document, []).append((passage.start, passage.end))
    claims = find_claims(text)
    every = find_citations(text)
    return CitationCheck(
        cited=tuple(one for one in every if is_known(one, spans)),
        unknown=tuple(one for one in every if not is_known(one, spans)),
        num_claims=len(claims),
        num_covered=sum(any(is_known(one, spans) for one in claim.citations) for claim in claims),
    )


def is_known(citation: Citation, spans: dict[str, list[Span]]) -> bool:
    """Whether what is cited lies in one of the ``spans`` of its document."""
    known = spans.get(citation.document, [])
    if citation.start is None or citation.end is None:
        return bool(known)
    return any(start <= citation.start < citation.end <= end for start, end in known)
