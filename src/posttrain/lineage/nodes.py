"""An artefact as the store gives it back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.config import content_hash


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file of a node: where it lies, its SHA-256 (hex) and its size in bytes."""

    path: str
    sha256: str
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Node:
    """One artefact as stored. ``created`` is UTC, ISO 8601; ``parents`` are ids in sorted order."""

    id: str
    kind: str
    content: Mapping[str, Any]
    created: str
    parents: tuple[str, ...]
    files: tuple[FileRecord, ...]

    @property
    def name(self) -> str:
        """What people call it: its name, else its path, else the empty string."""
        return str(self.content.get("name") or self.content.get("path") or "")


PROBLEMS = {
    "missing": "{path}: missing (of {node})",
    "changed": "{path}: changed (of {node}): sha256 {seen:.12}, recorded {expected:.12}",
    "tampered": "{node}: the stored record does not match its id (its content hashes to {seen})",
    "damaged": "{node}: the stored content is damaged: {seen}",
    "absent": "{node}: the record is gone ({expected})",
    "unlogged": "{node}: the record is not in the log: it was not put there by posttrain",
    "time": "{node}: recorded at {expected} by the log, but its record says {seen}",
    "misplaced": "{path}: not the place under which '{expected}' was recorded (of {node})",
    "entry": "{seen}",
}
"""What ``verify`` can find, and how it is said."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that ``verify`` found. ``what``: a key of PROBLEMS."""

    node: str
    what: str
    path: str
    expected: str
    seen: str

    def __str__(self) -> str:
        return PROBLEMS[self.what].format(node=self.node, path=self.path, expected=self.expected, seen=self.seen)


def make_id(kind: str, content: Any, parents: Sequence[str], files: Sequence[tuple[str, str]]) -> str:
    """The id of a node: its kind and a hash over everything it is; ``files`` as (name, SHA-256)."""
    return f"{kind}:{content_hash([kind, content, sorted(parents), sorted(list(pair) for pair in set(files))])[:16]}"
