"""Reading documents to index: a text file, a folder of them, or JSON Lines; streamed, one document in memory at a time."""

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from posttrain.errors import DataError, suggest
from posttrain.tools.retrieval.passages import Document

TEXT = (".txt", ".md")
LINES = (".jsonl", ".jsonl.gz")
KEYS = ("id", "text", "tenant", "metadata")
_NOT_IN_ID = re.compile(r"[\s\[\](){},;\"'>\x00-\x1f\x7f-\x9f]+")


def read_documents(path: str | Path, *, tenant: str | None = None, tenant_folders: bool = False) -> Iterator[Document]:
    """The documents of a file or folder (searched recursively, in the order of names; hidden files and other kinds are left out).

    A ``.txt`` or ``.md`` file is one document, called by its path below the folder; a line of ``.jsonl`` (or ``.jsonl.gz``) is one too:
    ``{"id": ..., "text": ..., "tenant": ..., "metadata": {...}}``, the last two optional. ``tenant``: the owner of all that name none.
    ``tenant_folders``: the first folder below ``path`` names the tenant; what lies beside these folders is for all.
    Raises DataError naming file, line and value.
    """
    root = Path(path)
    if root.is_file():
        yield from _documents(root, root.name, tenant)
        return
    if not root.is_dir():
        raise DataError(f"{root}: no such file or folder", hint="give a .txt, .md or .jsonl file, or a folder of them")
    for file in sorted(root.rglob("*")):
        name = file.relative_to(root)
        if file.is_file() and file.name.endswith(TEXT + LINES) and not any(part.startswith(".") for part in name.parts):
            owner = name.parts[0] if tenant_folders and len(name.parts) > 1 else tenant
            yield from _documents(file, name.as_posix(), owner)


def _documents(file: Path, name: str, tenant: str | None) -> Iterator[Document]:
    if file.name.endswith(LINES):
        yield from _lines(file, tenant)
        return
    if not file.name.endswith(TEXT):
        raise DataError(f"{file}: not a kind of document that can be read", hint="known: " + ", ".join(TEXT + LINES))
    try:
        with open(file, encoding="utf-8-sig", newline="") as stream:
            text = stream.read()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read: {error}", hint="a document is a UTF-8 text file") from None
    yield Document(_NOT_IN_ID.sub("-", name), text, tenant)


def _lines(file: Path, tenant: str | None) -> Iterator[Document]:
    number = 0
    try:
        with gzip.open(file, "rt", encoding="utf-8") if file.name.endswith(".gz") else open(file, encoding="utf-8") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield _document(line, f"{file}:{number}", tenant)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{file}:{number + 1}: cannot be read: {error}", hint="the file is UTF-8 JSON Lines, whole if compressed") from None


def _document(line: str, where: str, tenant: str | None) -> Document:
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON: {error}: {line[:60]!r}", hint="one JSON object a line") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: a {type(row).__name__}, not an object", hint='{"id": ..., "text": ...} on each line')
    for key in row:
        if key not in KEYS:
            raise DataError(f"{where}: unknown key '{key}'", hint=f"{suggest(key, KEYS)} Put anything else into `metadata`.")
    for key, kind in (("id", str), ("text", str), ("tenant", str | None), ("metadata", dict)):
        if (key in row or key in ("id", "text")) and not isinstance(row.get(key), kind):
            raise DataError(f"{where}: '{key}' is {json.dumps(row.get(key))[:60]}", hint=f"'{key}' must be {_KINDS[key]}")
    owner = row.get("tenant")
    if owner == "":  # neither nobody's nor everybody's: read as "for all" it would show one tenant's text to the others
        raise DataError(f"{where}: 'tenant' is empty", hint="name the tenant, or leave it out: it is then for all")
    return Document(row["id"], row["text"], tenant if owner is None else owner, row.get("metadata", {}))


_KINDS = {"id": "a text", "text": "a text", "tenant": "a text or null", "metadata": "an object"}
