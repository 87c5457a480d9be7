"""What ran: library versions, Python, machine, and the code of the user's repository; found without importing the libraries."""

import functools
import hashlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

LIBRARIES = (
    *("posttrain", "torch", "transformers", "tokenizers", "safetensors", "peft", "bitsandbytes"),
    *("numpy", "scipy", "pydantic", "jinja2", "pyarrow", "datasets"),
)


def environment_record() -> dict[str, Any]:
    """Library versions (None: not installed), Python, operating system, processor, cores. Equal on equal machines; no host or user name."""
    return {
        "name": "environment",
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "num_cores": os.cpu_count(),
        "libraries": {name: _version(name) for name in LIBRARIES},
    }


def code_record(folder: str | Path = ".") -> dict[str, Any]:
    """The hash of posttrain's own sources, and commit and state of the git repository that holds ``folder`` (None outside one)."""
    commit = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"name": "code", "posttrain_sha256": source_hash(), "commit": commit, "changed": bool(changes) if commit else None}


@functools.cache
def source_hash(leave_out: tuple[str, ...] = ()) -> str:
    """SHA-256 (hex) over the names and bytes of posttrain's files: Python, native sources, templates, data.

    ``leave_out``: folders and files, seen from the package, that do not count.
    """
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for file in sorted(file for file in root.rglob("*") if file.is_file()):
        place = file.relative_to(root)
        hidden = any(part.startswith((".", "__pycache__")) for part in place.parts)
        if hidden or any(place.is_relative_to(left) for left in leave_out):
            continue
        digest.update(f"{place.as_posix()}\0".encode())
        digest.update(file.read_bytes())
        digest.update(b"\0")
    return digest.hexdigest()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _git(folder: str | Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
