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


@contextmanager
def atomic_text(path: str | Path) -> Iterator[TextIO]:
    """A UTF-8 text stream that becomes the file ``path`` when the block ends well (fsync, rename), and vanishes when it does not."""
    file = Path(path)
    if file.is_dir():
        raise ConfigError(f"{file} is a folder, a file is needed", hint="name a file")
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


def check_replaceable(path: str | Path, marker: str) -> None:
    """Raise ConfigError unless ``path`` may be replaced as a whole: it is not there, empty, or holds the file ``marker`` of its kind."""
    place = Path(path)
    if place.is_file() or (place.is_dir() and any(place.iterdir()) and not (place / marker).is_file()):
        raise ConfigError(
            f"{place} is there and was not made by this command (it has no {marker})",
            hint="it would be replaced as a whole: name a new folder",
        )


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
