"""The SQLite file behind the lineage store: versioned schema, write-ahead log, one short connection per operation."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from posttrain.errors import ConfigError, InfrastructureError
from posttrain.lineage.chain import adopt

BUSY_SECONDS = 60.0

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE nodes (id TEXT PRIMARY KEY, kind TEXT NOT NULL, content TEXT NOT NULL, created TEXT NOT NULL)",
        "CREATE TABLE edges (child TEXT NOT NULL REFERENCES nodes, parent TEXT NOT NULL REFERENCES nodes, PRIMARY KEY (child, parent))",
        """CREATE TABLE files (
            node TEXT NOT NULL REFERENCES nodes, name TEXT NOT NULL, path TEXT NOT NULL, sha256 TEXT NOT NULL, num_bytes INTEGER NOT NULL,
            PRIMARY KEY (node, path)
        )""",
        "CREATE INDEX nodes_by_kind ON nodes (kind, created)",
        "CREATE INDEX edges_by_parent ON edges (parent)",
    ),
    (
        """CREATE TABLE log (
            number INTEGER PRIMARY KEY, event TEXT NOT NULL, subject TEXT NOT NULL, time TEXT NOT NULL, files TEXT NOT NULL,
            previous TEXT NOT NULL, hash TEXT NOT NULL
        )""",
        "CREATE INDEX log_by_subject ON log (subject, number)",
    ),
)
"""Statements that lift the schema from version n to n + 1. Never edit one that was released: add the next."""
LOGGED_FROM = 2
"""The first schema with a log."""


class Database:
    """Opens connections, brings the schema up to date, and turns SQLite's errors into the project's."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ready = False

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A write transaction: committed when the block ends, rolled back when it raises. Writers wait for one another."""
        with self._connected() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """One consistent view of the store. Raises ConfigError when there is none yet."""
        if not self._path.exists():
            raise ConfigError(f"{self._path}: no lineage store here", hint="run a recipe first, or give its store with --store PATH")
        with self._connected() as connection:
            connection.execute("BEGIN")
            yield connection
            connection.execute("ROLLBACK")

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        connection = None
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None)
            connection.execute("PRAGMA foreign_keys = ON")
            if not self._ready:
                self._prepare(connection)
                self._ready = True
            yield connection
        except (sqlite3.Error, OSError) as error:
            raise InfrastructureError(
                f"{self._path}: the lineage store cannot be used: {error}",
                hint="check free space and permissions; if the file is no SQLite database, move it away and record again",
            ) from error
        finally:
            if connection is not None:
                connection.close()

    def _prepare(self, connection: sqlite3.Connection) -> None:
        _use_write_ahead_log(connection)
        connection.execute("BEGIN IMMEDIATE")
        try:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > len(MIGRATIONS):
                raise ConfigError(
                    f"{self._path}: written by a newer posttrain (schema {version}, this one knows {len(MIGRATIONS)})",
                    hint="upgrade posttrain",
                )
            for statements in MIGRATIONS[version:]:
                for statement in statements:
                    connection.execute(statement)
            if version < LOGGED_FROM:
                adopt(connection)
            connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """Readers then never block the writer. The switch ignores the busy timeout: try again while another process holds the file."""
    deadline = time.monotonic() + BUSY_SECONDS
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
