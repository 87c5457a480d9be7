"""The record of every call: append-only JSON lines, each with the hash of the line before it.

A changed, inserted or removed line breaks the chain. What the chain alone cannot show is a tail cut off at a line's end, or a whole log
written anew: keep :attr:`AuditLog.head` somewhere else and give it to :func:`verify_audit`.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from posttrain.errors import DataError, InfrastructureError

START = "0" * 64
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff\ufeff]")


class AuditLog:
    """Appends to the log at ``path`` (made when missing). Several threads and processes may share one file.

    A line torn by a crash is kept and the next line says so (event "recovered", with the hash of the torn bytes). A full disk raises
    InfrastructureError and leaves no half line behind.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.head = START
        """Hash of the last line."""
        self.num_lines = 0
        self._end = 0
        self._actions: dict[str, list[tuple[int, int]]] = {}
        """Where the intents and ends of an episode's actions lie in the file: start and length in bytes."""
        self._lock = threading.Lock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise InfrastructureError(f"cannot open the audit log {self.path}: {error.strerror}", hint="choose another path") from None
        with self._lock, self._exclusive():
            self._catch_up()

    def append(self, event: Mapping[str, Any], *, durable: bool = False) -> int:
        """Write one line and return its number, from 1. ``durable`` waits until it is on the disk."""
        with self._lock, self._exclusive():
            self._catch_up()
            number = self._write(event)
            if durable:
                os.fsync(self._file)
            return number

    def actions(self, episode: str) -> list[dict[str, Any]]:
        """The intents of an episode's actions, each with the line of its end under ``"done"`` where there is one."""
        with self._lock, self._exclusive():
            self._catch_up()
            lines = [_parse(os.pread(self._file, length, start)) for start, length in self._actions.get(episode, ())]
        found: dict[int, dict[str, Any]] = {}
        for line in lines:
            if line is not None and line["event"] == "intent":
                found[line["line"]] = line
            elif line is not None and line.get("intent") in found:
                found[line["intent"]]["done"] = line
        return list(found.values())

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _exclusive(self) -> "_FileLock":
        return _FileLock(self._file)

    def _catch_up(self) -> None:
        """Read what was written since, by this or another process; note a torn last line."""
        os.lseek(self._file, self._end, os.SEEK_SET)
        with open(self._file, "rb", closefd=False) as stream:
            for raw in stream:
                if not raw.endswith(b"\n"):
                    self._put(b"\n")
                    self._end += len(raw) + 1
                    self.num_lines += 1
                    self._write({"event": "recovered", "torn_sha256": hashlib.sha256(raw).hexdigest()})
                    return
                self.num_lines += 1
                line = _parse(raw)
                if line is not None:
                    self.head = str(line["hash"])
                    self._index(line, len(raw))
                self._end += len(raw)

    def _write(self, event: Mapping[str, Any]) -> int:
        number = self.num_lines + 1
        time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        body = {"line": number, "time": time, **event, "previous": self.head}
        body["hash"] = _hash(body)
        raw = json.dumps(body, allow_nan=False).encode() + b"\n"
        self._put(raw)
        self._index(body, len(raw))
        self.head, self.num_lines, self._end = body["hash"], number, self._end + len(raw)
        return number

    def _put(self, raw: bytes) -> None:
        """Append all of ``raw`` or nothing."""
        try:
            written = 0
            while written < len(raw):
                written += os.write(self._file, raw[written:])
        except OSError as error:
            with contextlib.suppress(OSError):  # a half line that stays is noted by the next append
                os.ftruncate(self._file, self._end)
            what = "no space left" if error.errno in (errno.ENOSPC, errno.EDQUOT) else str(error.strerror)
            raise InfrastructureError(
                f"the audit log {self.path} cannot be written: {what}", hint="nothing is done without its record; make room and go on"
            ) from None

    def _index(self, line: Mapping[str, Any], length: int) -> None:
        if line.get("event") in ("intent", "done"):
            self._actions.setdefault(str(line.get("episode")), []).append((self._end, length))


class _FileLock:
    """Keeps other processes out of the file while a line is added."""

    def __init__(self, file: int) -> None:
        self._file = file

    def __enter__(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *exception: object) -> None:
        fcntl.flock(self._file, fcntl.LOCK_UN)


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What verifying found: ``problems`` mean the log is not as it was written; ``notes`` are traces of crashes."""

    num_lines: int
    head: str
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def read_audit(path: str | Path) -> Iterator[dict[str, Any]]:
    """The lines of a log as dictionaries, unverified; torn lines are left out. Raises DataError when there is no such file."""
    for raw in _raw_lines(path):
        line = _parse(raw)
        if line is not None:
            yield line


def audit_lines(lines: Iterable[Mapping[str, Any]]) -> list[str]:
    """One line a record for people: number, time, caller, tool, arguments, outcome.

    The name of an unknown tool and the arguments are a model's words: control characters in them are shown as escapes, so they can neither
    add a line to what is shown nor command the terminal.
    """
    shown = []
    for line in lines:
        caller = line.get("caller")
        names = [caller.get(key) for key in ("tenant", "role", "subject")] if isinstance(caller, Mapping) else []
        who = "/".join(str(name) for name in names if name) or "-"
        outcome = str(line.get("status", line.get("event")))
        if line.get("event") == "done":
            outcome += f" (line {line.get('intent')} ended)"
        arguments = json.dumps(line.get("arguments", {}), ensure_ascii=False)[:120]
        text = f"{line.get('line')!s:>5}  {line.get('time')}  {who}  {line.get('tool', '')} {arguments}  {outcome}"
        shown.append(_UNSEEN.sub(lambda match: match.group().encode("unicode_escape").decode(), text))
    return shown


def verify_audit(path: str | Path, head: str = "") -> AuditReport:
    """Recompute the chain. ``head``, kept from earlier, must be the hash of some line: so a cut tail or a rewritten log is found too."""
    previous, number = START, 0
    problems: list[str] = []
    notes: list[str] = []
    torn: tuple[int, str] | None = None
    open_intents: dict[int, str] = {}
    seen_head = not head
    for number, raw in enumerate(_raw_lines(path), start=1):
        line = _parse(raw) if raw.endswith(b"\n") else None
        if line is None:
            if torn:
                problems.append(f"line {torn[0]} is not a record")
            torn = (number, hashlib.sha256(raw.removesuffix(b"\n")).hexdigest())
            continue
        if torn:
            told = line.get("event") == "recovered" and line.get("torn_sha256") == torn[1]
            (notes if told else problems).append(f"line {torn[0]} " + ("was torn by a crash" if told else "is not a record"))
            torn = None
        problems += _line_problems(line, number, previous)
        previous = str(line.get("hash"))
        seen_head = seen_head or previous == head
        if line.get("event") == "intent":
            open_intents[number] = str(line.get("tool"))
        elif line.get("event") == "done":
            ended = line.get("intent")
            open_intents.pop(ended if isinstance(ended, int) else 0, None)
    if torn:
        notes.append(f"line {torn[0]}, the last, was torn by a crash")
    if not seen_head:
        problems.append(f"no line has the hash {head[:16]}...: lines at the end are missing, or the log was written anew")
    notes += [
        f"line {at}: {name} was begun and its end is not recorded: it may or may not have been done" for at, name in open_intents.items()
    ]
    return AuditReport(number, previous, tuple(problems), tuple(notes))


def _line_problems(line: Mapping[str, Any], number: int, previous: str) -> list[str]:
    if _hash({key: value for key, value in line.items() if key != "hash"}) != line.get("hash"):
        return [f"line {number} was changed"]
    if line.get("previous") != previous or line.get("line") != number:
        return [f"before line {number} a line was removed, added or moved"]
    return []


def _hash(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _parse(raw: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) and "hash" in line else None


def _raw_lines(path: str | Path) -> Iterator[bytes]:
    try:
        with open(path, "rb") as stream:
            yield from stream
    except FileNotFoundError:
        raise DataError(f"{path}: no such audit log", hint="check the path") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}", hint="it must be a readable file") from None
