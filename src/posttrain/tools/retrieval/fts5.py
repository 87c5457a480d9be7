"""Full-text search with SQLite's FTS5: bm25 over stemmed words, in the same file as the passages."""

import functools
import re
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from posttrain.tools.retrieval.backend import Backend, Embed, OnProgress, top
from posttrain.tools.retrieval.store import SCOPE_BITS, PassageStore

MAX_WORDS = 64
MAX_SCORED = 10_000
TOKENIZER = "porter unicode61 remove_diacritics 2"
_WORD = re.compile(r"\d+(?:[.,]\d+)+|\w+")


def query_words(query: str) -> list[str]:
    """The first :data:`MAX_WORDS` different words of a query, in small letters. They hold letters, digits, ``_`` and the points of
    numbers only, so quoted they are never syntax; ``9,000`` is looked for as it stands."""
    words = (match.group().lower() for match in _WORD.finditer(query))
    found: dict[str, None] = {}
    for word in words:
        found[word[:100]] = None
        if len(found) == MAX_WORDS:
            break
    return list(found)


class Fts5(Backend):
    """bm25 (k1 1.2, b 0.75) over the words of a query, any of which may match.

    A word that is in very many passages says little and costs much. So the rarest words are taken first, until they are in
    :data:`MAX_SCORED` passages together; the others are left out.
    """

    version = sqlite3.sqlite_version

    def __init__(self, store: PassageStore) -> None:
        self._store = store
        self._count = functools.lru_cache(maxsize=65536)(self._count_now)

    @classmethod
    def settings(cls) -> dict[str, Any]:
        """Tokenizer and the two bounds."""
        return {"tokenizer": TOKENIZER, "max_words": MAX_WORDS, "max_scored": MAX_SCORED}

    @classmethod
    def build(cls, store: PassageStore, folder: Path | None, embed: Embed | None, on_progress: OnProgress) -> Self:
        """Add the table of words to the store."""
        store.create_full_text("words", TOKENIZER)
        done = 0
        store.execute("BEGIN")
        for batch in store.rows("SELECT number FROM passages ORDER BY number"):
            store.execute(
                "INSERT INTO words (rowid, text) SELECT number, text FROM passages WHERE number BETWEEN ? AND ? ORDER BY number",
                (batch[0][0], batch[-1][0]),
            )
            done += len(batch)
            on_progress("indexed", done)
        store.execute("INSERT INTO words (words) VALUES ('optimize')")
        store.execute("COMMIT")
        return cls(store)

    @classmethod
    def open(cls, store: PassageStore, folder: Path, embed: Embed | None) -> Self:
        """Nothing to read: the table lies in the store."""
        return cls(store)

    def _count_now(self, word: str) -> int:
        """Passages that hold a word."""
        return int(self._store.execute("SELECT count(*) FROM words WHERE words MATCH ?", (f'"{word}"',))[0][0])

    def search(self, query: str, k: int, scopes: Sequence[int]) -> list[tuple[int, float]]:
        """The best ``k``: (passage number, score), best first."""
        counts = sorted((count, word) for word in query_words(query) if (count := self._count(word)))
        chosen: list[str] = []
        total = 0
        for count, word in counts:
            total += count
            if chosen and total > MAX_SCORED:
                break
            chosen.append(f'"{word}"')
        if not chosen:
            return []
        expression = " OR ".join(chosen)
        statement = "SELECT rowid, -rank FROM words WHERE words MATCH ? AND rowid BETWEEN ? AND ? ORDER BY rank LIMIT ?"
        found: list[tuple[int, float]] = []
        for scope in scopes:
            found += self._store.execute(statement, (expression, scope << SCOPE_BITS, ((scope + 1) << SCOPE_BITS) - 1, k))
        return top(found, k)
