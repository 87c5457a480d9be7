"""A content-addressed record of what was made from what, in one SQLite file.

A node is an artefact: a kind, a JSON content, the nodes it was made from (parents) and the files that hold it. Its id is
``kind:`` and the first 16 hex digits of the SHA-256 over all of that (file bytes, not file places), so putting the same thing
twice gives the same node, and a node can never change. A chained log keeps when each was put, so that a removed record shows too. The store
may be written by several processes at once.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from posttrain.config import file_hash
from posttrain.errors import ConfigError, DataError, suggest
from posttrain.lineage.chain import append
from posttrain.lineage.database import Database
from posttrain.lineage.diff import LineageDiff, diff_histories
from posttrain.lineage.nodes import FileRecord, Node, Problem, make_id
from posttrain.lineage.rules import KINDS, check_content
from posttrain.lineage.verify import Verification, verify_store

DEFAULT_STORE = Path("runs/lineage.db")
SEE_VERIFY = "`posttrain lineage verify` lists what is wrong with the store; put a copy of it back"


class LineageStore:
    """Put artefacts in, ask what they came from, compare two of them, verify that their files are still the same."""

    def __init__(self, path: str | Path = DEFAULT_STORE) -> None:
        self.path = Path(path)
        self._database = Database(self.path)

    def open(self) -> "LineageStore":
        """The store itself, made where there is none. Raises ConfigError or InfrastructureError where it cannot be written."""
        with self._database.writing():
            return self

    def put(
        self,
        kind: str,
        content: Mapping[str, Any],
        *,
        parents: Sequence[str] = (),
        files: Iterable[str | Path] = (),
    ) -> str:
        """Record an artefact and return its id; the same artefact again returns the same id, and the log says that it was put again.

        ``files`` may name files or folders (all files inside, hidden ones aside). Raises ConfigError for an unknown kind or
        parent, DataError for a missing file or content that is not JSON, CheckFailed for data without licence or consent, a
        waiver without reason, and a text changed under the version it had (see :mod:`posttrain.lineage.rules`).
        """
        if kind not in KINDS:
            raise ConfigError(f"unknown lineage kind '{kind}'", hint=suggest(kind, KINDS))
        try:
            text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"the content of a {kind} node is not JSON: {error}", hint="use text, finite numbers, lists, mappings"
            ) from None
        records = [record for path in files for record in self._file_records(Path(path))]
        parents = sorted(set(parents))
        identity = make_id(kind, json.loads(text), parents, [(name, record.sha256) for name, record in records])
        with self._database.writing() as connection:
            for parent in parents:
                if connection.execute("SELECT 1 FROM nodes WHERE id = ?", (parent,)).fetchone() is None:
                    raise ConfigError(f"{self.path}: no node '{parent}' to be a parent of this {kind}", hint="put the parents first")
            same_kind = (_content(*row) for row in connection.execute("SELECT id, content FROM nodes WHERE kind = ?", (kind,)))
            check_content(kind, content, same_kind)
            now = datetime.now(UTC).isoformat(timespec="microseconds")
            connection.execute("INSERT OR IGNORE INTO nodes (id, kind, content, created) VALUES (?, ?, ?, ?)", (identity, kind, text, now))
            connection.executemany("INSERT OR IGNORE INTO edges (child, parent) VALUES (?, ?)", [(identity, parent) for parent in parents])
            connection.executemany(
                "INSERT OR IGNORE INTO files (node, name, path, sha256, num_bytes) VALUES (?, ?, ?, ?, ?)",
                [(identity, name, record.path, record.sha256, record.num_bytes) for name, record in records],
            )
            append(connection, "put", identity, now, records)
        return identity

    def discard(self, folder: str | Path) -> None:
        """Log that the files in a folder are removed on purpose, so that ``verify`` does not miss them; nothing when none is recorded."""
        place = self._place(Path(folder))
        with self._database.writing() as connection:
            recorded = connection.execute("SELECT path FROM files WHERE substr(path, 1, ?) = ?", (len(place) + 1, f"{place}/")).fetchone()
            if recorded is not None:
                append(connection, "discarded", place, datetime.now(UTC).isoformat(timespec="microseconds"))

    def get(self, node_id: str) -> Node:
        """The node with this id, a unique beginning of it, ``latest`` (put last of all) or ``latest:KIND``. Raises ConfigError."""
        with self._database.reading() as connection:
            return self._load(connection, self._find(connection, node_id))

    def _find(self, connection: Any, node_id: str) -> str:
        if node_id == "latest" or node_id.startswith("latest:"):
            kind = node_id.partition(":")[2]
            condition, values = ("WHERE kind = ?", [kind]) if kind else ("", [])
            query = f"SELECT id FROM nodes JOIN log ON subject = id {condition} ORDER BY number DESC LIMIT 1"
            found = [row[0] for row in connection.execute(query, values)]
        else:
            query = "SELECT id FROM nodes WHERE substr(id, 1, ?) = ? OR (instr(?, ':') = 0 AND instr(id, ':' || ?) > 0) LIMIT 5"
            found = [row[0] for row in connection.execute(query, (len(node_id), node_id, node_id, node_id))] if node_id else []
            found = [node_id] if node_id in found else found
        if len(found) != 1:
            what = f"'{node_id}' is the beginning of several: {', '.join(found)}" if found else f"no node '{node_id}'"
            raise ConfigError(
                f"{self.path}: {what}", hint="`posttrain lineage show` lists the newest nodes; give a whole id such as adapter:3f2a..."
            )
        return str(found[0])

    def newest(self, limit: int = 20) -> list[Node]:
        """The nodes put last, the last first."""
        with self._database.reading() as connection:
            query = "SELECT id FROM nodes JOIN log ON subject = id GROUP BY id ORDER BY max(number) DESC LIMIT ?"
            rows = connection.execute(query, (limit,)).fetchall()
            return [self._load(connection, row[0]) for row in rows]

    def ancestors(self, node_id: str) -> list[Node]:
        """Everything the node was made from, nearest first; the node itself is left out."""
        return self._walk(node_id, start="child", step="parent")

    def descendants(self, node_id: str) -> list[Node]:
        """Everything made from the node, nearest first."""
        return self._walk(node_id, start="parent", step="child")

    def diff(self, before: str, after: str) -> LineageDiff:
        """What differs between two artefacts and between the things they were made from."""
        first, second = self.get(before), self.get(after)
        return diff_histories([first, *self.ancestors(first.id)], [second, *self.ancestors(second.id)])

    def verify(self, node_id: str | None = None) -> list[Problem]:
        """The problems of :meth:`verification`. Empty means all is as recorded."""
        return list(self.verification(node_id).problems)

    def verification(self, node_id: str | None = None, *, head: str = "") -> Verification:
        """Recompute the hash of every file and record (of one node and its ancestors, or of all), and of the log.

        ``head``: the hash of the log's last entry as it was earlier; it must still be there.
        """
        with self._database.reading() as connection:
            chosen = None
            if node_id is not None:
                first = self._find(connection, node_id)
                chosen = [first, *self._reached(connection, first, start="child", step="parent")]
            return verify_store(connection, chosen, self.resolve, head)

    # ---- inside -----------------------------------------------------------------------------------------------------------

    def _walk(self, node_id: str, *, start: str, step: str) -> list[Node]:
        with self._database.reading() as connection:
            first = self._find(connection, node_id)
            return [self._load(connection, reached) for reached in self._reached(connection, first, start=start, step=step)]

    def _reached(self, connection: Any, first: str, *, start: str, step: str) -> list[str]:
        query = f"""
            WITH RECURSIVE reached (id, depth) AS (
                SELECT {step}, 1 FROM edges WHERE {start} = ?
                UNION
                SELECT edges.{step}, reached.depth + 1 FROM edges JOIN reached ON edges.{start} = reached.id
            )
            SELECT id FROM reached GROUP BY id ORDER BY min(depth), id
        """
        return [row[0] for row in connection.execute(query, (first,))]

    def _load(self, connection: Any, node_id: str) -> Node:
        row = connection.execute("SELECT kind, content, created FROM nodes WHERE id = ?", (node_id,)).fetchone()
        if row is None:
            raise DataError(f"{self.path}: {node_id} is referred to, but its record is gone", hint=SEE_VERIFY)
        kind, content, created = row
        parents = tuple(row[0] for row in connection.execute("SELECT parent FROM edges WHERE child = ? ORDER BY parent", (node_id,)))
        files = connection.execute("SELECT path, sha256, num_bytes FROM files WHERE node = ? ORDER BY path", (node_id,))
        return Node(node_id, kind, _content(node_id, content), created, parents, tuple(FileRecord(*row) for row in files))

    def resolve(self, record: FileRecord) -> Path:
        """Where a recorded file lies now: paths inside the store's folder move with it."""
        path = Path(record.path)
        return path if path.is_absolute() else self.path.parent / path

    def _file_records(self, path: Path) -> list[tuple[str, FileRecord]]:
        if not path.exists():
            raise DataError(f"{path}: no such file to record", hint="record an artefact after its files are written")
        found = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".")) if path.is_dir() else [path]
        result = []
        for file in found:
            name = str(file.relative_to(path)) if path.is_dir() else file.name
            record = FileRecord(self._place(file), file_hash(file), os.path.getsize(file))
            result.append((name, record))
        return result

    def _place(self, file: Path) -> str:
        folder, file = self.path.parent.resolve(), file.resolve()
        return str(file.relative_to(folder)) if file.is_relative_to(folder) else str(file)


def _content(node_id: str, text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise DataError(f"{node_id}: the stored content is damaged", hint=SEE_VERIFY)
    return content
