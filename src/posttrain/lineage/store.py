"""A content-addressed record of what was made from what, in one SQLite file.

A node is an artefact: a kind, a JSON content, the nodes it was made from (parents) and the files that hold it. Its id is
``kind:`` and the first 16 hex digits of the SHA-256 over all of that (file bytes, not file places), so putting the same thing
twice gives the same node, and a node can never change. The store may be written by several processes at once.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from posttrain.config import content_hash, file_hash
from posttrain.errors import ConfigError, DataError, suggest
from posttrain.lineage.database import Database
from posttrain.lineage.diff import LineageDiff, diff_histories
from posttrain.lineage.nodes import FileRecord, Node, Problem
from posttrain.lineage.rules import KINDS, check_content

DEFAULT_STORE = Path("runs/lineage.db")


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
        """Record an artefact and return its id; the same artefact again returns the same id and writes nothing new.

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
        node_id = _node_id(kind, json.loads(text), parents, [(name, record.sha256) for name, record in records])
        with self._database.writing() as connection:
            for parent in parents:
                if connection.execute("SELECT 1 FROM nodes WHERE id = ?", (parent,)).fetchone() is None:
                    raise ConfigError(f"{self.path}: no node '{parent}' to be a parent of this {kind}", hint="put the parents first")
            same_kind = (json.loads(row[0]) for row in connection.execute("SELECT content FROM nodes WHERE kind = ?", (kind,)))
            check_content(kind, content, same_kind)
            created = datetime.now(UTC).isoformat(timespec="microseconds")
            connection.execute(
                "INSERT OR IGNORE INTO nodes (id, kind, content, created) VALUES (?, ?, ?, ?)", (node_id, kind, text, created)
            )
            connection.executemany("INSERT OR IGNORE INTO edges (child, parent) VALUES (?, ?)", [(node_id, parent) for parent in parents])
            connection.executemany(
                "INSERT OR IGNORE INTO files (node, name, path, sha256, num_bytes) VALUES (?, ?, ?, ?, ?)",
                [(node_id, name, record.path, record.sha256, record.num_bytes) for name, record in records],
            )
        return node_id

    def get(self, node_id: str) -> Node:
        """The node with this id, a unique beginning of it, ``latest`` (newest of all) or ``latest:KIND``. Raises ConfigError."""
        with self._database.reading() as connection:
            if node_id == "latest" or node_id.startswith("latest:"):
                kind = node_id.partition(":")[2]
                condition, values = ("WHERE kind = ?", [kind]) if kind else ("", [])
                query = f"SELECT id FROM nodes {condition} ORDER BY created DESC, rowid DESC LIMIT 1"
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
            return self._load(connection, found[0])

    def newest(self, limit: int = 20) -> list[Node]:
        """The newest nodes, newest first."""
        with self._database.reading() as connection:
            rows = connection.execute("SELECT id FROM nodes ORDER BY created DESC, rowid DESC LIMIT ?", (limit,)).fetchall()
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
        """Recompute the hash of every file and every record (of one node and its ancestors, or of all). Empty means all is as recorded."""
        if node_id is None:
            with self._database.reading() as connection:
                nodes = [self._load(connection, row[0]) for row in connection.execute("SELECT id FROM nodes ORDER BY rowid").fetchall()]
        else:
            nodes = [self.get(node_id), *self.ancestors(node_id)]
        return [problem for node in nodes for problem in self._check(node)]

    # ---- inside -----------------------------------------------------------------------------------------------------------

    def _walk(self, node_id: str, *, start: str, step: str) -> list[Node]:
        first = self.get(node_id).id
        query = f"""
            WITH RECURSIVE reached (id, depth) AS (
                SELECT {step}, 1 FROM edges WHERE {start} = ?
                UNION
                SELECT edges.{step}, reached.depth + 1 FROM edges JOIN reached ON edges.{start} = reached.id
            )
            SELECT id FROM reached GROUP BY id ORDER BY min(depth), id
        """
        with self._database.reading() as connection:
            return [self._load(connection, row[0]) for row in connection.execute(query, (first,)).fetchall()]

    def _load(self, connection: Any, node_id: str) -> Node:
        kind, content, created = connection.execute("SELECT kind, content, created FROM nodes WHERE id = ?", (node_id,)).fetchone()
        parents = tuple(row[0] for row in connection.execute("SELECT parent FROM edges WHERE child = ? ORDER BY parent", (node_id,)))
        files = connection.execute("SELECT path, sha256, num_bytes FROM files WHERE node = ? ORDER BY path", (node_id,))
        return Node(node_id, kind, json.loads(content), created, parents, tuple(FileRecord(*row) for row in files))

    def _check(self, node: Node) -> list[Problem]:
        problems = []
        with self._database.reading() as connection:
            rows = connection.execute("SELECT DISTINCT name, sha256 FROM files WHERE node = ?", (node.id,)).fetchall()
        seen_id = _node_id(node.kind, dict(node.content), list(node.parents), [(row[0], row[1]) for row in rows])
        if seen_id != node.id:
            problems.append(Problem(node.id, "tampered", "", node.id, seen_id))
        for record in node.files:
            path = self.resolve(record)
            if not path.is_file():
                problems.append(Problem(node.id, "missing", str(path), record.sha256, ""))
            elif (seen := file_hash(path)) != record.sha256:
                problems.append(Problem(node.id, "changed", str(path), record.sha256, seen))
        return problems

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


def _node_id(kind: str, content: Any, parents: Sequence[str], files: Sequence[tuple[str, str]]) -> str:
    return f"{kind}:{content_hash([kind, content, sorted(parents), sorted(list(pair) for pair in set(files))])[:16]}"
