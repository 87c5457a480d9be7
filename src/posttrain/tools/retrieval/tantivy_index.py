"""Full-text search with tantivy (extra ``retrieval``): bm25 over stemmed English words, for larger collections."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from posttrain.errors import ConfigError, DataError
from posttrain.tools.retrieval.backend import Backend, Embed, OnProgress, top
from posttrain.tools.retrieval.fts5 import MAX_WORDS, query_words
from posttrain.tools.retrieval.store import SCOPE_BITS, PassageStore

try:
    import tantivy
except ImportError:
    raise ConfigError('backend "tantivy" needs the tantivy library', hint="pip install 'posttrain[retrieval]'") from None

TOKENIZER = "en_stem"
WRITER_BYTES = 128 << 20
FOLDER = "tantivy"


class TantivyIndex(Backend):
    """bm25 (k1 1.2, b 0.75) over the words of a query, any of which may match."""

    version = str(tantivy.__version__)

    def __init__(self, store: PassageStore, index: "tantivy.Index") -> None:
        self._all_scopes = set(range(len(store.scope_sizes())))
        self._index = index
        self._searcher = index.searcher()
        self._lock = threading.Lock()

    @classmethod
    def settings(cls) -> dict[str, Any]:
        """Tokenizer and bound."""
        return {"tokenizer": TOKENIZER, "max_words": MAX_WORDS}

    @classmethod
    def build(cls, store: PassageStore, folder: Path | None, embed: Embed | None, on_progress: OnProgress) -> Self:
        """Write tantivy's own files into ``folder/tantivy``."""
        place = None
        if folder is not None:
            (folder / FOLDER).mkdir()
            place = str(folder / FOLDER)
        index = tantivy.Index(_schema(), path=place)
        writer = index.writer(heap_size=WRITER_BYTES, num_threads=1)
        done = 0
        for batch in store.rows("SELECT number, text FROM passages ORDER BY number"):
            for number, text in batch:
                document = tantivy.Document(text=text)
                document.add_unsigned("number", number)
                document.add_unsigned("scope", number >> SCOPE_BITS)
                writer.add_document(document)
            done += len(batch)
            on_progress("indexed", done)
        writer.commit()
        writer.wait_merging_threads()
        index.reload()
        return cls(store, index)

    @classmethod
    def open(cls, store: PassageStore, folder: Path, embed: Embed | None) -> Self:
        """Open ``folder/tantivy``."""
        with _damage(f"{folder / FOLDER}: cannot be read as an index"):
            return cls(store, tantivy.Index.open(str(folder / FOLDER)))

    def search(self, query: str, k: int, scopes: Sequence[int]) -> list[tuple[int, float]]:
        """The best ``k``: (passage number, score), best first."""
        words = query_words(query)
        if not words:
            return []
        with self._lock, _damage("the tantivy index cannot be searched"):
            wanted = self._index.parse_query(" ".join(f'"{word}"' for word in words), ["text"])
            if set(scopes) != self._all_scopes:  # only where it is needed: it keeps tantivy from skipping what cannot be among the best
                within = tantivy.Query.term_set_query(self._index.schema, "scope", list(scopes))
                both = [(tantivy.Occur.Must, wanted), (tantivy.Occur.Must, tantivy.Query.const_score_query(within, 0.0))]
                wanted = tantivy.Query.boolean_query(both)
            hits = self._searcher.search(wanted, k, count=False).hits
            numbers = self._searcher.fast_field_values("number", [address for _, address in hits])
            return top(zip(numbers, (float(score) for score, _ in hits), strict=True), k)


@contextmanager
def _damage(what: str) -> Iterator[None]:
    """Errors of the library, and its panics (a BaseException without a class to import), which a damaged file causes, as DataError."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, (ValueError, OSError)) and type(error).__name__ != "PanicException":
            raise
        raise DataError(f"{what}: {error}", hint="build the index again") from None


def _schema() -> "tantivy.Schema":
    builder = tantivy.SchemaBuilder()
    builder.add_unsigned_field("number", fast=True)
    builder.add_unsigned_field("scope", indexed=True)
    builder.add_text_field("text", stored=False, tokenizer_name=TOKENIZER)
    return builder.build()
