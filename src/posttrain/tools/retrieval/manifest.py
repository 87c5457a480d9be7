"""``manifest.json``: what an index holds, how it was built, and how each of its files looked then."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from posttrain.config import content_hash, file_hash
from posttrain.config.files import write_json
from posttrain.errors import DataError

MANIFEST = "manifest.json"
STORE = "passages.db"
FORMAT = "posttrain index 1"
HEADER_BYTES = 100  # an SQLite file counts its changes in there


@dataclass(frozen=True, slots=True)
class Manifest:
    """``content``: hash of all passages. ``tenants``: (name, passages) by scope, the first (None) being those for all."""

    backend: str
    backend_version: str
    settings: Mapping[str, Any]
    content: str
    num_documents: int
    tenants: tuple[tuple[str | None, int], ...]

    @property
    def num_passages(self) -> int:
        """All passages."""
        return sum(count for _, count in self.tenants)

    @property
    def version(self) -> str:
        """``sha256:...``: the same for the same documents in the same order, settings and library version."""
        return "sha256:" + content_hash(self.dump())

    def dump(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "format": FORMAT,
            "backend": self.backend,
            "backend_version": self.backend_version,
            "settings": dict(self.settings),
            "content": self.content,
            "num_documents": self.num_documents,
            "num_passages": self.num_passages,
            "tenants": [list(one) for one in self.tenants],
        }


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of a finished index, with size, header and hash of each of its files."""
    for file in _files(folder):
        file.chmod(0o644)
    files = {str(file.relative_to(folder)): _looks(file) | {"sha256": file_hash(file)} for file in _files(folder)}
    write_json(folder / MANIFEST, {"version": manifest.version, **manifest.dump(), "files": files})


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an index. Raises DataError when there is none, or one that does not fit its own version."""
    data = _read(folder)
    try:
        tenants = tuple((name, int(count)) for name, count in data["tenants"])
        manifest = Manifest(data["backend"], data["backend_version"], data["settings"], data["content"], data["num_documents"], tenants)
        fits = data["version"] == manifest.version and manifest.num_passages == data["num_passages"] and bool(data["files"])
    except (KeyError, TypeError, ValueError):
        fits = False
    if not fits:
        raise DataError(f"{folder / MANIFEST}: changed by hand or damaged", hint="build the index again")
    return manifest


def check_files(folder: Path) -> None:
    """Raise DataError when a file is missing or its size or header is not what it was. Cheap: reads a few bytes of each."""
    for name, known in _read(folder)["files"].items():
        file = folder / name
        if not file.is_file():
            raise DataError(f"{file}: missing from the index", hint="build the index again")
        if _looks(file) != {key: known.get(key) for key in ("bytes", "header")}:
            raise DataError(f"{file}: changed or damaged since the index was built", hint="build the index again")


def changed_files(folder: Path) -> list[str]:
    """One sentence for each file that is missing or has other contents than when it was built. Reads all of them."""
    problems = []
    for name, known in _read(folder)["files"].items():
        file = folder / name
        if not file.is_file():
            problems.append(f"{file} is missing")
        elif file_hash(file) != known["sha256"]:
            problems.append(f"{file} has changed since the index was built")
    return problems


def _read(folder: Path) -> dict[str, Any]:
    file = folder / MANIFEST
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{folder}: no index ({MANIFEST} is not there)", hint="posttrain index build DOCUMENTS --out INDEX") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: cannot be read: {error}", hint="build the index again") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT or not isinstance(data.get("files"), dict):
        seen = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise DataError(f"{file}: not of the format '{FORMAT}': {str(seen)[:60]}", hint="build the index again with this version")
    if not all(isinstance(known, dict) and "sha256" in known for known in data["files"].values()):
        raise DataError(f"{file}: changed by hand or damaged", hint="build the index again")
    return data


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file() and file.name != MANIFEST and not file.name.endswith(".lock"))


def _looks(file: Path) -> dict[str, Any]:
    with open(file, "rb") as stream:
        return {"bytes": file.stat().st_size, "header": sha256(stream.read(HEADER_BYTES)).hexdigest()[:16]}
