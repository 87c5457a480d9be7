"""Is everything in a store as it was recorded: the records, the log of how they came about, the files?"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from sqlite3 import Connection

from posttrain.config import file_hash
from posttrain.lineage.chain import Entry, NamedFile, chain_problems, read_log
from posttrain.lineage.nodes import FileRecord, Problem, make_id


@dataclass(frozen=True, slots=True)
class Verification:
    """What verifying found.

    ``superseded``: nodes whose files a later run replaced or removed, so there is nothing left to compare. ``adopted``: how many nodes are
    older than the store's log; what happened to the store before cannot be told. ``head``: the hash of the log's last entry.
    """

    problems: tuple[Problem, ...]
    superseded: tuple[str, ...]
    adopted: int
    num_entries: int
    head: str


def verify_store(connection: Connection, nodes: Collection[str] | None, locate: Callable[[FileRecord], Path], head: str) -> Verification:
    """Verify the log and ``nodes`` (None: all). ``locate``: where a recorded file lies now."""
    entries = read_log(connection)
    log = _Log(entries)
    present = [row[0] for row in connection.execute("SELECT id FROM nodes ORDER BY rowid")]
    known = set(present)
    problems = [*chain_problems(entries, head)]
    referred = [*connection.execute("SELECT child, parent FROM edges"), *connection.execute("SELECT parent, child FROM edges")]
    absent = {node: f"referred to by {other}" for node, other in referred if node not in known}
    absent |= {node: "in the log" for node in log.nodes if node not in known}
    problems += [Problem(node, "absent", "", seen, "") for node, seen in absent.items() if nodes is None or node in nodes]
    superseded = []
    for node in present:
        if nodes is None or node in nodes:
            found, replaced = _check(connection, node, log, locate)
            problems += found
            superseded += [node] if replaced else []
    adopted = sum(entry.event == "adopted" for entry in entries)
    return Verification(tuple(problems), tuple(superseded), adopted, len(entries), entries[-1].hash if entries else "")


class _Log:
    """The log by node and by file: what was recorded last about each."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.nodes: dict[str, str] = {}
        """Node to the time it was recorded first."""
        self.files: dict[str, set[NamedFile]] = {}
        """Node to its files in all its puts."""
        self._last: dict[tuple[str, str], int] = {}  # (path, sha256) -> the last entry that records these bytes there
        self._by_path: dict[str, tuple[int, str]] = {}  # path -> the last entry that records any, and their hash
        self._discarded: dict[str, int] = {}
        self._adopted = {entry.number for entry in entries if entry.event == "adopted"}
        for entry in entries:
            if entry.event == "discarded":
                self._discarded[entry.subject] = entry.number
                continue
            self.nodes.setdefault(entry.subject, entry.time)
            for name, file in _readable(entry):
                self.files.setdefault(entry.subject, set()).add((name, file))
                self._last[file.path, file.sha256] = entry.number
                self._by_path[file.path] = (entry.number, file.sha256)

    def superseded(self, file: FileRecord) -> bool:
        """Whether other bytes were recorded at this place later, or the folder around it was discarded later."""
        number, sha256 = self._by_path.get(file.path, (0, file.sha256))
        mine = self._last.get((file.path, file.sha256), number)
        return sha256 != file.sha256 or any(
            number > mine and PurePath(file.path).is_relative_to(folder) for folder, number in self._discarded.items()
        )

    def adopted(self, path: str, sha256: str) -> bool:
        """Whether these bytes lay there before there was a log, and none were recorded since: the order of such records is not known."""
        return self._last.get((path, sha256)) in self._adopted and self._by_path[path][0] in self._adopted


def _readable(entry: Entry) -> list[NamedFile]:
    try:
        return entry.named_files()
    except (ValueError, TypeError):
        return []  # the entry's hash tells


def _check(connection: Connection, node: str, log: _Log, locate: Callable[[FileRecord], Path]) -> tuple[list[Problem], bool]:
    """Problems of one record and its files, and whether some of its files were superseded."""
    kind, text, created = connection.execute("SELECT kind, content, created FROM nodes WHERE id = ?", (node,)).fetchone()
    parents = [row[0] for row in connection.execute("SELECT parent FROM edges WHERE child = ?", (node,))]
    rows = connection.execute("SELECT name, path, sha256, num_bytes FROM files WHERE node = ? ORDER BY path", (node,)).fetchall()
    files = [(name, FileRecord(path, sha256, size)) for name, path, sha256, size in rows]
    problems = [*_record_problems(node, kind, text, parents, files)]
    if node not in log.nodes:
        problems.append(Problem(node, "unlogged", "", "", ""))
    elif created != log.nodes[node]:
        problems.append(Problem(node, "time", "", log.nodes[node], created))
    logged = log.files.get(node, set()) if node in log.nodes else set(files)
    for name, file in sorted(logged.symmetric_difference(files), key=str):
        problems.append(Problem(node, "misplaced", file.path, name, ""))
    superseded = False
    for name, file in files:
        place = locate(file)
        if PurePath(file.path).parts[-len(PurePath(name).parts) :] != PurePath(name).parts:
            problems.append(Problem(node, "misplaced", file.path, name, ""))
        elif log.superseded(file):
            superseded = True
        elif not place.is_file():
            problems.append(Problem(node, "missing", str(place), file.sha256, ""))
        elif (seen := file_hash(place)) != file.sha256:
            if log.adopted(file.path, seen):
                superseded = True
            else:
                problems.append(Problem(node, "changed", str(place), file.sha256, seen))
    return list(dict.fromkeys(problems)), superseded


def _record_problems(node: str, kind: str, text: str, parents: Sequence[str], files: Sequence[NamedFile]) -> list[Problem]:
    try:
        content = json.loads(text)
    except ValueError as error:
        return [Problem(node, "damaged", "", "", str(error))]
    if not isinstance(content, Mapping):
        return [Problem(node, "damaged", "", "", f"a {type(content).__name__} instead of a mapping")]
    seen = make_id(kind, content, parents, [(name, file.sha256) for name, file in files])
    return [] if seen == node else [Problem(node, "tampered", "", node, seen)]
