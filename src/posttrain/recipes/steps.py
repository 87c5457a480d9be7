"""Steps of a run: each has inputs that decide its result, a folder, and is done once.

A step's key is the hash of its inputs (settings, file hashes, keys of the steps before it). A finished step with the same key is reused;
one that was
interrupted runs again in its own folder, where the work inside goes on from its own checkpoints; one whose inputs changed starts afresh.
"""

import fcntl
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from posttrain.config import content_hash
from posttrain.config.files import write_json
from posttrain.errors import ConfigError

Outputs = dict[str, Any]
OUT = "{out}/"
"""Stands for the output folder in the paths of ``done.json``."""
STARTED_FILE = "started.json"
"""Key and inputs of a step, written before it begins."""


class Display(Protocol):
    """Where progress is shown: the terminal, or nowhere."""

    def step(self, number: int, title: str, state: str) -> None:
        """Announce a step: state is "run", "resume", "reused" or "done"."""

    def advance(self, done: int, total: int, note: str = "") -> None:
        """Progress inside the current step."""

    def say(self, text: str) -> None:
        """One line for the reader."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """key: what later steps depend on. outputs: JSON the step returned (empty in a dry run). state: how it came about."""

    name: str
    key: str
    folder: Path
    state: str
    seconds: float = 0.0
    outputs: Outputs = field(default_factory=dict)


class Steps:
    """Runs steps in order inside one output folder."""

    def __init__(self, out: Path, display: Display, *, dry_run: bool = False) -> None:
        self.out = out
        self.display = display
        self.dry_run = dry_run
        self.results: list[StepResult] = []
        self.caches: set[Path] = set()
        """Folders shared between steps that the steps of this run use."""

    def do(self, name: str, title: str, inputs: Mapping[str, Any], work: Callable[[Path], Outputs]) -> StepResult:
        """Reuse, resume or run one step. ``work(folder)`` returns JSON outputs."""
        number = len(self.results) + 1
        key = content_hash({"step": name, "inputs": dict(inputs)})
        folder = self.out / f"{number:02d}-{name}"
        done, started = _read(folder / "done.json"), _read(folder / STARTED_FILE)
        if done.get("key") == key:
            result = StepResult(name, key, folder, "reused", float(done["seconds"]), self._resolved(done["outputs"]))
            self.display.step(number, title, "reused")
        elif self.dry_run:
            state = "resume" if started.get("key") == key else "run"
            result = StepResult(name, key, folder, state)
            self.display.step(number, title, state)
        else:
            state = "resume" if started.get("key") == key else "run"
            if state == "run" and folder.exists():
                shutil.rmtree(folder)
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / STARTED_FILE, {"key": key, "inputs": dict(inputs)})
            self.display.step(number, title, state)
            begin = time.monotonic()
            outputs = work(folder)
            seconds = round(time.monotonic() - begin, 2)
            write_json(folder / "done.json", {"key": key, "seconds": seconds, "outputs": self._portable(outputs)})
            result = StepResult(name, key, folder, state, seconds, outputs)
            self.display.step(number, title, "done")
        self.results.append(result)
        return result

    def _portable(self, outputs: Outputs) -> Outputs:
        """Paths inside the output folder written from its place, so that a copied or moved run reads its own files."""
        inside = f"{self.out}/"
        return {
            name: OUT + value.removeprefix(inside) if isinstance(value, str) and value.startswith(inside) else value
            for name, value in outputs.items()
        }

    def _resolved(self, outputs: Outputs) -> Outputs:
        return {
            name: str(self.out / value.removeprefix(OUT)) if isinstance(value, str) and value.startswith(OUT) else value
            for name, value in outputs.items()
        }


@contextmanager
def exclusive(out: Path) -> Iterator[None]:
    """Only one process at a time works in an output folder; the lock goes when the process ends, however it ends."""
    out.mkdir(parents=True, exist_ok=True)
    with open(out / ".lock", "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{out} is in use by another run", hint="wait for it, or give another folder with --out") from None
        yield


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return value if isinstance(value, dict) else {}
