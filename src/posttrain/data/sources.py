"""From a path to rows: recognises the format by content, decompresses, streams; says plainly what a file is when it is no data.

A row source yields ``(position, row)``; ``position`` is the line (text files) or the row counted from 1. Where a single line
is broken it yields a :class:`BadRow` in place of the row, so that the reader may skip it; where the file itself is
broken it raises DataError.
"""

import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from posttrain.errors import DataError, suggest

HEAD = 1 << 16  # bytes looked at to recognise a file
MAX_LINE = 64 << 20  # bytes of one JSON Lines row; a longer line is not one
TEXT_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "csv"}
BINARY_SUFFIXES = {".parquet": "parquet", ".arrow": "arrow"}
FORMATS = "JSONL, JSON, CSV, Parquet, any of these as .gz, or a folder written by Hugging Face `datasets`"
NOT_DATA = (
    (
        b"version https://git-lfs.github.com/spec",
        "is a Git LFS pointer, not the data",
        "fetch the data: git lfs pull --include <this file>",
    ),
    (b"PK\x03\x04", "is a zip archive or a spreadsheet", "unpack it, or export the sheet as CSV"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd", "decompress it first: zstd -d <this file>"),
    (b"BZh", "is compressed with bzip2", "decompress it first: bunzip2 <this file>"),
    (b"\xfd7zXZ\x00", "is compressed with xz", "decompress it first: unxz <this file>"),
    (b"SQLite format 3\x00", "is an SQLite database", "export the table as CSV or JSONL"),
    (b"%PDF", "is a PDF document", "extract its rows first"),
)


@dataclass(frozen=True, slots=True)
class BadRow:
    """A place that could not be turned into a row: why, how to mend it, and the raw text as far as it is known."""

    problem: str
    fix: str
    raw: str


Rows = Iterator[tuple[int, dict[str, Any] | BadRow]]


@dataclass(frozen=True, slots=True)
class Source:
    """One recognised input: its format, the unit its positions count ("line" or "row") and the function that streams it."""

    path: Path
    format: str
    unit: str
    rows: Callable[[], Rows]


def open_source(path: str | Path, *, split: str | None = None) -> Source:
    """Recognise ``path`` (a file, or a folder of `datasets` or of Parquet shards, with its ``split``). Raises DataError with what it is
    instead."""
    from posttrain.data import tables, texts

    file = Path(path)
    check_exists(file)
    if file.is_dir():
        if shards := tables.hub_shards(file, split):
            return Source(file, "parquet", "row", lambda: tables.shard_rows(shards))
        folder = tables.datasets_folder(file, split)
        return Source(folder, "datasets", "row", lambda: tables.arrow_folder_rows(folder))
    if not file.is_file():
        raise DataError(f"{file}: is a pipe or a device, which can be read only once", hint="write it to a file first")
    if split is not None:
        raise DataError(f"{file}: a file has no split '{split}'", hint="leave the split out; only `datasets` folders have splits")
    head = read_head(file)
    name = file.name.removesuffix(".gz")
    if head[:4] == b"PAR1":
        return Source(file, "parquet", "row", lambda: tables.parquet_rows(file))
    if Path(name).suffix == ".arrow" or head[:6] == b"ARROW1" or head[:4] == b"\xff\xff\xff\xff":
        return Source(file, "arrow", "row", lambda: tables.arrow_rows(file))
    refuse_non_data(file, head)
    kind = _text_format(head, TEXT_SUFFIXES.get(Path(name).suffix))
    if kind == "csv":
        return Source(file, kind, "line", lambda: texts.csv_rows(file, tabs=name.endswith(".tsv")))
    if kind == "json":
        return Source(file, kind, "row", lambda: texts.json_rows(file))
    if kind == "jsonl":
        return Source(file, kind, "line", lambda: texts.jsonl_rows(file))
    raise DataError(f"{file}: not a format that can be read; it begins with {head[:40]!r}", hint=f"accepted: {FORMATS}")


def check_exists(file: Path) -> None:
    """Raise DataError, with the nearest name there is, for a file or folder that is not there."""
    if not file.exists():
        near = (
            suggest(file.name, [entry.name for entry in file.parent.iterdir()]) if file.parent.is_dir() else f"{file.parent} does not exist"
        )
        raise DataError(f"{file}: no such file", hint=f"check the path ({near})")


def _text_format(head: bytes, suffix: str | None) -> str | None:
    """ "jsonl", "json" or "csv", by the first bytes; the suffix decides only where they leave it open."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if suffix == "csv":
        return "csv"
    if start[:1] == b"[":
        return "json"
    if start[:1] != b"{":
        return suffix or ("csv" if _is_csv(start) else None)
    first, newline, rest = start.partition(b"\n")
    if not newline:  # one line so far: a whole JSON object, or a JSONL row longer than the head
        return suffix or "jsonl"
    try:
        json.loads(first)
    except ValueError:
        return suffix or "jsonl"
    return "jsonl" if rest.strip() else suffix or "jsonl"


def _is_csv(start: bytes) -> bool:
    """Whether a text begins with a line of two or more column names and a line with as many separators or more."""
    lines = start.decode("utf-8", errors="replace").splitlines()[:2]
    for separator in ",;\t":
        names = [name.strip().strip('"') for name in lines[0].split(separator)]
        if len(names) > 1 and len(lines) > 1 and lines[1].count(separator) >= len(names) - 1:
            return all(name.isidentifier() for name in names)
    return False


def read_head(path: Path) -> bytes:
    """The first bytes of a file, decompressed. Empty and unreadable files raise."""
    with damage(path), open_bytes(path) as stream:
        head = stream.read(HEAD)
    if not head.strip():
        raise DataError(f"{path}: the file is empty", hint="the download or export that made it failed: make it again")
    return head


def refuse_non_data(path: Path, head: bytes) -> None:
    """Raise DataError when the head shows a known non-data file or an encoding other than UTF-8."""
    for magic, what, fix in NOT_DATA:
        if head.startswith(magic):
            raise DataError(f"{path}: {what}", hint=fix)
    start = head[:512].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        raise DataError(
            f"{path}: is a web page, not data (it begins with {head[:40]!r})",
            hint="the download saved an error or login page: fetch the raw file",
        )
    wide = head[:2] in (b"\xff\xfe", b"\xfe\xff") or head[:200].count(0) > len(head[:200]) // 4
    if wide:
        raise DataError(f"{path}: is UTF-16 or UTF-32 text", hint=f"convert it: iconv -f UTF-16 -t UTF-8 {path.name} > utf8-{path.name}")


def open_bytes(path: Path) -> BinaryIO:
    """The file's bytes, decompressed when it is gzip (by its content, whatever its name)."""
    with open(path, "rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    return io.BufferedReader(gzip.GzipFile(path, "rb"), HEAD) if packed else open(path, "rb")


@contextmanager
def damage(path: Path) -> Iterator[None]:
    """Turns the errors of a broken or unreadable file into one DataError."""
    try:
        yield
    except EOFError:
        raise DataError(
            f"{path}: the gzip stream ends early: the file was cut", hint="copy or download it again; compare its size or checksum"
        ) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: the gzip stream is damaged: {error}", hint="copy or download it again") from None
    except PermissionError:
        raise DataError(f"{path}: no permission to read it", hint=f"make it readable: chmod u+r {path}") from None


def broken(path: Path, error: Exception | str, fix: str = "write the file again from its source") -> NoReturn:
    """Raise the DataError of a file whose structure is broken."""
    raise DataError(f"{path}: {error}", hint=fix) from None
