"""Freezing: a lock file beside a suite (or gate) holds its hash and time, so that a later change is seen and named."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from posttrain.config import content_hash
from posttrain.config.files import write_json
from posttrain.errors import CheckFailed, ConfigError
from posttrain.evaluation.suite import Suite


def lock_path(path: str | Path) -> Path:
    """``suites/finops.yaml`` -> ``suites/finops.lock``."""
    return Path(path).with_suffix(".lock")


def freeze_suite(suite: Suite) -> dict[str, Any]:
    """Write the lock of a suite. Freezing again without a change keeps the first time; with a change it starts anew."""
    return _freeze(suite.path, suite.hash, _parts(suite))


def freeze_settings(path: Path, settings: dict[str, Any], what: str) -> dict[str, Any]:
    """Write the lock of a file that is settings alone (a gate); ``what`` prefixes the hash."""
    return _freeze(path, f"{what}:{content_hash(settings)}", {"settings": settings})


def _freeze(path: Path, value: str, parts: dict[str, Any]) -> dict[str, Any]:
    existing = read_lock(path)
    if existing and existing["hash"] == value:
        return existing
    lock = {"format": 1, "hash": value, "frozen_at": datetime.now(UTC).isoformat(timespec="seconds"), **parts}
    write_json(lock_path(path), lock)
    return lock


def read_lock(path: str | Path) -> dict[str, Any] | None:
    """The lock beside a suite or gate file; None when it was never frozen. A damaged lock raises ConfigError."""
    file = lock_path(path)
    if not file.exists():
        return None
    try:
        lock = json.loads(file.read_text(encoding="utf-8"))
        datetime.fromisoformat(lock["frozen_at"])
        return {"hash": str(lock["hash"]), **lock}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file}: damaged lock file: {error}", hint="restore it from version control") from None


def check_frozen(suite: Suite) -> None:
    """Raise CheckFailed naming each changed setting, file, case and line when the suite differs from its lock. No lock: passes."""
    changes = changes_since_freeze(suite)
    if changes:
        raise CheckFailed(
            f"{suite.path}: changed since it was frozen:\n  {shorten(changes)}",
            hint="undo the change, or raise the version and run `posttrain suite freeze` before the next training",
        )


def check_settings_frozen(path: Path, settings: dict[str, Any]) -> None:
    """As :func:`check_frozen` for a file that is settings alone."""
    changes = changed_settings(path, settings)
    if changes:
        raise CheckFailed(
            f"{path}: changed since it was frozen:\n  {shorten(changes)}", hint="undo the change, or freeze it again before training"
        )


def shorten(changes: list[str], limit: int = 12) -> str:
    """The first changes, indented, and how many more there are."""
    more = [f"and {len(changes) - limit} more"] if len(changes) > limit else []
    return "\n  ".join([*changes[:limit], *more])


def changed_settings(path: Path, settings: dict[str, Any]) -> list[str]:
    """One line per setting that differs from the lock beside ``path``; empty when equal or never frozen."""
    lock = read_lock(path)
    return _changed_settings(lock.get("settings", {}), settings) if lock else []


def changes_since_freeze(suite: Suite) -> list[str]:
    """One line per difference between a suite and its lock; empty when equal or never frozen."""
    lock = read_lock(suite.path)
    if lock is None or lock["hash"] == suite.hash:
        return []
    now = _parts(suite)
    changes = _changed_settings(lock.get("settings", {}), now["settings"])
    for file in sorted({*lock.get("files", {}), *now["files"]}):
        if lock.get("files", {}).get(file) != now["files"].get(file):
            changes.append(f"file {file} changed")
    old, new = dict(lock.get("cases", {})), now["cases"]
    lines = {case.id: case.line for case in suite.cases}
    changes += [f"{suite.cases_path}:{lines[case]}: case '{case}' changed" for case in new if case in old and old[case] != new[case]]
    changes += [f"{suite.cases_path}:{lines[case]}: case '{case}' is new" for case in new if case not in old]
    changes += [f"{suite.cases_path}: case '{case}' is gone" for case in old if case not in new]
    return changes or [f"{suite.cases_path}: the order of the cases changed"]


def _changed_settings(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """``criteria.0.min: 0.9 -> 0.8`` for each setting that differs."""
    before, after = dict(_flat(old)), dict(_flat(new))
    changed = [key for key in {**before, **after} if before.get(key, _ABSENT) != after.get(key, _ABSENT)]
    return [f"{key}: {before.get(key, _ABSENT)!r:.100} -> {after.get(key, _ABSENT)!r:.100}" for key in changed]


class _Absent:
    def __repr__(self) -> str:
        return "absent"


_ABSENT = _Absent()


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted paths to leaves; an empty mapping or list is a leaf."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not inside:
        yield path, value
    for key, part in inside:
        yield from _flat(part, f"{path}.{key}" if path else str(key))


def _parts(suite: Suite) -> dict[str, Any]:
    return {"settings": suite.config.settings, "files": dict(suite.files), "cases": {case.id: case.hash for case in suite.cases}}
