"""The log of a store: every put and every removal in order, each entry with the hash of the one before.

A node's id covers what it holds; the log covers what happened: which nodes there are, when each was recorded, where its files lay. An entry
that was changed, inserted or removed breaks the chain. What the chain alone cannot show is a tail cut off: keep its head and give it to
``verify``.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from sqlite3 import Connection
from typing import Literal

from posttrain.config import content_hash
from posttrain.lineage.nodes import FileRecord, Problem

START = "0" * 64
Event = Literal["put", "adopted", "discarded"]
"""``adopted``: was in the store before it had a log. ``discarded``: the files in a folder were removed on purpose."""
NamedFile = tuple[str, FileRecord]


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry; ``subject`` is a node's id, or a folder that was discarded. ``files`` as JSON text."""

    number: int
    event: str
    subject: str
    time: str
    files: str
    previous: str
    hash: str

    def named_files(self) -> list[NamedFile]:
        """The files of the node with the names they count under, as recorded. Raises ValueError for damaged text."""
        return [(str(name), FileRecord(str(path), str(sha256), int(size))) for name, path, sha256, size in json.loads(self.files)]

    def expected_hash(self) -> str:
        """The hash that the entry's fields give."""
        return content_hash([self.number, self.event, self.subject, self.time, self.files, self.previous])


def append(connection: Connection, event: Event, subject: str, time: str, files: Sequence[NamedFile] = ()) -> None:
    """Add an entry behind the last one, inside the caller's transaction."""
    last = connection.execute("SELECT number, hash FROM log ORDER BY number DESC LIMIT 1").fetchone()
    number, previous = (last[0] + 1, last[1]) if last else (1, START)
    text = json.dumps([[name, file.path, file.sha256, file.num_bytes] for name, file in files], ensure_ascii=False)
    entry = Entry(number, event, subject, time, text, previous, "")
    row = (number, event, subject, time, text, previous, entry.expected_hash())
    connection.execute("INSERT INTO log (number, event, subject, time, files, previous, hash) VALUES (?, ?, ?, ?, ?, ?, ?)", row)


def adopt(connection: Connection) -> None:
    """Log the nodes of a store that had no log, as they are found."""
    for node, created in connection.execute("SELECT id, created FROM nodes ORDER BY created, rowid").fetchall():
        rows = connection.execute("SELECT name, path, sha256, num_bytes FROM files WHERE node = ? ORDER BY path", (node,)).fetchall()
        append(connection, "adopted", node, created, [(name, FileRecord(path, sha256, size)) for name, path, sha256, size in rows])


def read_log(connection: Connection) -> list[Entry]:
    """All entries in order."""
    rows = connection.execute("SELECT number, event, subject, time, files, previous, hash FROM log ORDER BY number")
    return [Entry(*row) for row in rows]


def chain_problems(entries: Sequence[Entry], head: str = "") -> Iterator[Problem]:
    """Where the chain breaks, and whether ``head``, kept from earlier, is missing from it."""
    previous, number = START, 0
    for entry in entries:
        if entry.hash != entry.expected_hash():
            yield Problem(entry.subject, "entry", "", entry.hash, f"entry {entry.number} of the log was changed")
        elif entry.previous != previous or entry.number != number + 1:
            yield Problem(
                entry.subject, "entry", "", entry.previous, f"before entry {entry.number} of the log one was removed, added or moved"
            )
        previous, number = entry.hash, entry.number
    if head and not any(entry.hash.startswith(head) for entry in entries):
        seen = f"no entry of the log has the hash {head[:16]}: entries at its end are missing, or it was written anew"
        yield Problem("", "entry", "", head, seen)
