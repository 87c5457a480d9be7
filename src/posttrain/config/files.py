"""Atomic writes: a reader sees the old file or the new one, never half of it."""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from posttrain.errors import ConfigError, InfrastructureError

MADE_BY = "made_by.json"
"""The file that says which command wrote a folder, so that the same command may replace it."""


@contextmanager
def atomic_text(path: str | Path) -> Iterator[TextIO]:
    """A UTF-8 text stream that becomes the file ``path`` when the block ends well (fsync, rename), and vanishes when it does not."""
    file = Path(path)
    with _disk_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, file)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file atomically (temporary file beside it, fsync, rename)."""
    with atomic_text(path) as stream:
        stream.write(text)


def write_json(path: str | Path, value: Any) -> None:
    """Write a JSON file atomically, indented, keys in the order given; NaN is refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """A temporary directory that becomes ``path`` when the block ends without error, and vanishes when it does not.

    Every file written in it is fsynced before the rename. An existing ``path`` is replaced.
    """
    target = Path(path)
    with _disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        try:
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    with open(file, "rb") as stream:
                        os.fsync(stream.fileno())
            os.chmod(temporary, 0o755)
            if target.exists():
                old = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.old."))
                os.replace(target, old / "previous")
                os.replace(temporary, target)
                shutil.rmtree(old)
            else:
                os.replace(temporary, target)
            descriptor = os.open(target.parent, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


@contextmanager
def command_directory(path: str | Path, command: str) -> Iterator[Path]:
    """:func:`atomic_directory` for a folder that a user names: an existing one is replaced only when ``command`` wrote it before.

    Raises ConfigError for any other that is not empty. ``made_by.json`` in the folder says who wrote it.
    """
    target, record = Path(path), {"command": command}
    if not _is_empty(target) and not _says(target / MADE_BY, record):
        raise ConfigError(
            f"{target} exists and was not written by `{command}`, which would replace all of it",
            hint="choose a new folder, or remove that one first",
        )
    with atomic_directory(target) as folder:
        yield folder
        write_json(folder / MADE_BY, record)


def _is_empty(place: Path) -> bool:
    """Whether nothing would be lost at ``place``: there is nothing, or an empty folder."""
    return not any(place.iterdir()) if place.is_dir() else not (place.exists() or place.is_symlink())


def _says(file: Path, record: Any) -> bool:
    try:
        return bool(json.loads(file.read_text(encoding="utf-8")) == record)
    except (OSError, ValueError):
        return False


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise InfrastructureError(
                f"no space left while writing {path}", hint="free some space and run the same command again: it goes on where it was"
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise InfrastructureError(f"cannot write {path}: {error.strerror}", hint="choose another output folder") from error
        raise
