"""``passages.db``: documents and passages of an index in one SQLite file (or in memory)."""

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from posttrain.errors import ConfigError, DataError, InfrastructureError, PosttrainError
from posttrain.tools.retrieval.passages import Document, Passage, check_document, cut

SCOPE_BITS = 40
"""A passage's number is its scope (0: for all, then one a tenant) above this bit, and its place within the scope below it."""
_TABLES = """
CREATE TABLE documents (id TEXT PRIMARY KEY, sha256 TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE passages (number INTEGER PRIMARY KEY, document TEXT NOT NULL, start INTEGER NOT NULL, stop INTEGER NOT NULL,
                       text TEXT NOT NULL, metadata TEXT NOT NULL);
"""


class PassageStore:
    """A connection with the passages; safe to share between threads. Every damage is one DataError that names the file."""

    def __init__(self, path: Path | None, *, create: bool = False) -> None:
        """``path`` None: in memory, always created."""
        self.path = path
        self._lock = threading.Lock()
        create = create or path is None
        location = ":memory:" if path is None else f"{path.absolute().as_uri()}?mode={'rwc' if create else 'ro'}"
        try:
            self._connection = sqlite3.connect(location, uri=path is not None, check_same_thread=False, isolation_level=None)
            if create:  # built aside and synced as a whole before it takes its place, so the journal would protect nothing
                self._connection.executescript("PRAGMA synchronous=OFF; PRAGMA journal_mode=OFF; PRAGMA cache_size=-65536;" + _TABLES)
            else:
                self._connection.executescript("PRAGMA query_only=ON; PRAGMA trusted_schema=OFF; PRAGMA cache_size=-65536;")
        except sqlite3.Error as error:
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> PosttrainError:
        if "full" in str(error):
            return InfrastructureError(f"no space left while writing {self.path}", hint="free some space and build again")
        return DataError(f"{self.path or 'index in memory'}: cannot be read as an index: {error}", hint="build the index again")

    def execute(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        """Run one statement, all rows of its answer."""
        with self._lock:
            try:
                return self._connection.execute(statement, values).fetchall()
            except (sqlite3.Error, UnicodeDecodeError) as error:
                raise self._damaged(error) from None

    def create_full_text(self, name: str, tokenizer: str) -> None:
        """Add an empty FTS5 table with one column, ``text``, that keeps words and not the texts."""
        try:
            self._connection.execute(f"CREATE VIRTUAL TABLE {name} USING fts5(text, content='', tokenize='{tokenizer}')")
        except sqlite3.OperationalError as error:
            raise ConfigError(f"this Python's SQLite cannot do FTS5: {error}", hint='use backend "tantivy" (extra "retrieval")') from None

    def rows(self, statement: str, size: int = 2000) -> Iterator[list[Any]]:
        """The rows of a statement, streamed in lists of ``size``. For one user at a time: building and verifying."""
        try:
            cursor = self._connection.execute(statement)
            while batch := cursor.fetchmany(size):
                yield batch
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise self._damaged(error) from None

    def add(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Add passages: (number, document, start, stop, text, metadata as JSON)."""
        try:
            self._connection.executemany("INSERT INTO passages VALUES (?, ?, ?, ?, ?, ?)", rows)
        except sqlite3.Error as error:
            raise self._damaged(error) from None

    def add_document(self, document: Document, where: str) -> None:
        """Add a document's hash; an id already there raises DataError."""
        try:
            self._connection.execute("INSERT INTO documents VALUES (?, ?)", (document.id, document.sha256))
        except sqlite3.IntegrityError:
            raise DataError(f"{where}: a second document is called '{document.id}'", hint="give every document its own id") from None
        except sqlite3.Error as error:
            raise self._damaged(error) from None

    def passages(self, numbers: Sequence[int], tenants: Sequence[str | None]) -> list[Passage]:
        """The passages with these numbers, in that order. ``tenants``: names by scope."""
        marks = ",".join("?" * len(numbers))
        found = {row[0]: row for row in self.execute(f"SELECT * FROM passages WHERE number IN ({marks})", numbers)}
        missing = [number for number in numbers if number not in found]
        if missing:
            raise DataError(f"{self.path or 'index in memory'}: passage {missing[0]} is not there", hint="build the index again")
        return [_passage(found[number], tenants) for number in numbers]

    def scope_sizes(self) -> list[int]:
        """Passages of each scope."""
        last = self.execute("SELECT max(number) FROM passages")[0][0]
        sizes = []
        for scope in range((last >> SCOPE_BITS) + 1 if last is not None else 0):
            bounds = (scope << SCOPE_BITS, ((scope + 1) << SCOPE_BITS) - 1)
            highest = self.execute("SELECT max(number) FROM passages WHERE number BETWEEN ? AND ?", bounds)[0][0]
            sizes.append(highest - bounds[0] + 1 if highest is not None else 0)
        return sizes

    def content_hash(self) -> str:
        """SHA-256 (hex) over every document's hash and every passage, in order; streamed."""
        digest = sha256()
        for table, order in (("documents", "id"), ("passages", "number")):
            for batch in self.rows(f"SELECT * FROM {table} ORDER BY {order}"):
                for row in batch:
                    digest.update(json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
        return digest.hexdigest()

    def close(self) -> None:
        """Let the file go."""
        with self._lock:
            self._connection.close()


def _passage(row: Sequence[Any], tenants: Sequence[str | None]) -> Passage:
    number, document, start, stop, text, metadata = row
    return Passage(f"{document}:{start}-{stop}", document, text, start, stop, tenants[number >> SCOPE_BITS], json.loads(metadata))


class Filling:
    """Streams documents into a store: one document in memory at a time."""

    def __init__(self, store: PassageStore, max_chars: int) -> None:
        self._store, self._max_chars = store, max_chars
        self.tenants: dict[str | None, int] = {None: 0}
        """Passages a tenant, in the order of their scopes; None: for all."""
        self._scopes: dict[str | None, int] = {None: 0}
        self.num_documents = 0

    @property
    def num_passages(self) -> int:
        """Passages so far."""
        return sum(self.tenants.values())

    def add(self, document: Document) -> None:
        """Cut and store one document."""
        self.num_documents += 1
        where = f"document {self.num_documents}"
        check_document(document, where)
        self._store.add_document(document, where)
        count = self.tenants.setdefault(document.tenant, 0)
        base = self._scopes.setdefault(document.tenant, len(self._scopes)) << SCOPE_BITS
        metadata = json.dumps(dict(document.metadata), ensure_ascii=False, sort_keys=True)
        rows = [
            (base + place, document.id, one.start, one.end, one.text, metadata)
            for place, one in enumerate(cut(document, self._max_chars), start=count)
        ]
        self._store.add(rows)
        self.tenants[document.tenant] = count + len(rows)
