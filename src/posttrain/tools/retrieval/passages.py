"""Documents, the passages they are cut into, and what a search finds."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from posttrain.errors import ConfigError, DataError
from posttrain.tools.retrieval.sentences import Span, paragraph_spans, sentence_spans

DOCUMENT_ID = re.compile(r"[^\s\[\](){},;\"'>\x00-\x1f\x7f-\x9f]{1,200}")
"""What can be named in a citation: no white space, control characters, brackets (``>`` too), commas, semicolons or quotes."""
_ENDS_LIKE_SPAN = re.compile(r":\d+-\d+$")
_WORD = re.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class Document:
    """A text to be searched. ``tenant`` names the one tenant it belongs to; None: it belongs to all. ``metadata`` is plain JSON."""

    id: str
    text: str
    tenant: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """Hash (hex) of everything about the document."""
        value = [self.id, self.tenant, dict(self.metadata), self.text]
        return sha256(json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a document: ``text == document.text[start:end]``, offsets in characters. ``id`` is ``document:start-end``."""

    id: str
    document: str
    text: str
    start: int
    end: int
    tenant: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def mark(self) -> str:
        """The citation of it: ``[document:start-end]``."""
        return f"[{self.id}]"


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that was found; a higher ``score`` is better. Scores of different backends are not comparable."""

    passage: Passage
    score: float


def check_document(document: Document, where: str) -> None:
    """Raise DataError when a document cannot be indexed or cited."""
    if not DOCUMENT_ID.fullmatch(document.id) or _ENDS_LIKE_SPAN.search(document.id):
        raise DataError(
            f"{where}: document id {document.id[:60]!r} cannot be cited as [id:start-end]",
            hint="use 1 to 200 characters without white space, brackets, '>', commas, semicolons or quotes, not ending like ':3-7'",
        )
    if document.tenant == "":
        raise DataError(f"{where}: document '{document.id}' has an empty tenant", hint="name the tenant, or leave it out: it is for all")
    try:
        json.dumps([document.text, document.tenant, dict(document.metadata)], ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: document '{document.id}' holds half a surrogate pair: {error}", hint="write the text as valid Unicode"
        ) from None
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: metadata of document '{document.id}' is not plain JSON: {error}") from None


def cut(document: Document, max_chars: int) -> Iterator[Passage]:
    """The passages of a document, in order, each at most ``max_chars`` long.

    Whole paragraphs are joined while they fit; a longer one is cut between sentences, a longer sentence between words, a longer word
    anywhere. Nothing but white space between passages is left out.
    """
    if max_chars < 20:
        raise ConfigError(f"max_chars {max_chars} is too small for a passage", hint="20 or more; 800 is usual")
    start = end = -1
    for unit_start, unit_end in _units(document.text, max_chars):
        if start >= 0 and unit_end - start > max_chars:
            yield _passage(document, start, end)
            start = -1
        start, end = (unit_start if start < 0 else start), unit_end
    if start >= 0:
        yield _passage(document, start, end)


def _units(text: str, max_chars: int) -> Iterator[Span]:
    for paragraph in paragraph_spans(text):
        sentences = [paragraph] if paragraph[1] - paragraph[0] <= max_chars else sentence_spans(text, *paragraph)
        for start, end in sentences:
            words = [(start, end)] if end - start <= max_chars else [match.span() for match in _WORD.finditer(text, start, end)]
            for word_start, word_end in words:
                for at in range(word_start, word_end, max_chars):
                    yield at, min(at + max_chars, word_end)


def _passage(document: Document, start: int, end: int) -> Passage:
    return Passage(
        f"{document.id}:{start}-{end}", document.id, document.text[start:end], start, end, document.tenant, dict(document.metadata)
    )
