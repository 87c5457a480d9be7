"""An artefact as the store gives it back."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that ``verify`` found. ``what``: "missing" or "changed" file, or a "tampered" node."""

    node: str
    what: str
    path: str
    expected: str
    seen: str

    def __str__(self) -> str:
        if self.what == "missing":
            return f"{self.path}: missing (of {self.node})"
        if self.what == "changed":
            return f"{self.path}: changed (of {self.node}): sha256 {self.seen[:12]}, recorded {self.expected[:12]}"
        return f"{self.node}: the stored record does not match its id (its content hashes to {self.seen})"
