"""Steps of a run: each has inputs that decide its result, a folder, and is done once.

A step's key is the hash of its inputs (settings, file hashes, code, keys of the steps before it). A finished step with the same key is
reused, wherever in the run it lies, as long as its files are as it left them; one that was interrupted runs again in its own folder, where
the work inside goes on from its own checkpoints; one whose inputs changed starts afresh.
"""

import fcntl
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from posttrain.config import content_hash, file_hash
from posttrain.config.files import write_json
from posttrain.errors import ConfigError

Outputs = dict[str, Any]
OUT = "{out}/"
"""Stands for the output folder in the paths of ``done.json``."""
STARTED_FILE = "started.json"
"""Key and inputs of a step, written before it begins."""
DONE_FILE = "done.json"
"""Key, outputs and file hashes of a step, written when it is done."""
NOT_OUTPUTS = ("checkpoints", "logs")
"""Folders of a step that no later step reads: they may be cleared or grow."""


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

    def __init__(self, out: Path, display: Display, *, dry_run: bool = False, discard: Callable[[Path], None] | None = None) -> None:
        """``discard`` is told of a step's folder before it is removed, to be made anew."""
        self.out = out
        self.display = display
        self.dry_run = dry_run
        self.discard = discard
        self.results: list[StepResult] = []
        self.caches: set[Path] = set()
        """Folders shared between steps that the steps of this run use."""

    def do(self, name: str, title: str, inputs: Mapping[str, Any], work: Callable[[Path], Outputs]) -> StepResult:
        """Reuse, resume or run one step. ``work(folder)`` returns JSON outputs."""
        number = len(self.results) + 1
        key = content_hash({"step": name, "inputs": dict(inputs)})
        places = self._places(number, name)
        folder = next((place for file in (DONE_FILE, STARTED_FILE) for place in places if _read(place / file).get("key") == key), places[0])
        done, started = _read(folder / DONE_FILE), _read(folder / STARTED_FILE)
        finished, sources = done.get("key") == key, self._sources(inputs)
        why = _fault(folder, done, sources) if finished else _what_changed(places, inputs)
        if finished and not why:
            result = StepResult(name, key, folder, "reused", float(done["seconds"]), self._resolved(done["outputs"]))
            self.display.step(number, title, "reused")
            self.results.append(result)
            return result
        state = "resume" if started.get("key") == key and not finished else "run"
        self.display.step(number, title, state)
        if why:
            self.display.say(why)
        if self.dry_run:
            result = StepResult(name, key, folder, state)
        else:
            if state == "run" and folder.exists():
                if self.discard:
                    self.discard(folder)
                shutil.rmtree(folder)
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / STARTED_FILE, {"key": key, "inputs": dict(inputs)})
            begin = time.monotonic()
            outputs = work(folder)
            seconds = round(time.monotonic() - begin, 2)
            done = {"key": key, "seconds": seconds, "outputs": self._portable(outputs), "sources": sources, "files": _file_hashes(folder)}
            write_json(folder / DONE_FILE, done)
            result = StepResult(name, key, folder, state, seconds, outputs)
            self.display.step(number, title, "done")
        self.results.append(result)
        return result

    def _places(self, number: int, name: str) -> list[Path]:
        """The step's folder in this run, then those it had under other numbers, when stages were added or taken out."""
        place = self.out / f"{number:02d}-{name}"
        numbered = re.compile(rf"\d{{2,}}-{re.escape(name)}")
        others = (folder for folder in self.out.glob(f"*-{name}") if folder != place and numbered.fullmatch(folder.name))
        return [place, *sorted(others)]

    def _sources(self, inputs: Mapping[str, Any]) -> dict[str, str]:
        """Lineage ids of the earlier steps that the inputs name by key: what exactly this step is made from."""
        named = json.dumps(dict(inputs))
        return {step.name: step.outputs["lineage"] for step in self.results if step.key in named and step.outputs.get("lineage")}

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


def _file_hashes(folder: Path) -> dict[str, str]:
    """The files a step leaves, by their place in its folder."""
    places = sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    hidden = (STARTED_FILE, DONE_FILE, *NOT_OUTPUTS)
    return {str(place): file_hash(folder / place) for place in places if place.parts[0] not in hidden and not place.name.startswith(".")}


def _fault(folder: Path, done: Mapping[str, Any], sources: Mapping[str, str]) -> str:
    """Why a finished step cannot be reused: a file that is not as it was left, or a source that was made anew and came out otherwise."""
    for place, expected in done.get("files", {}).items():
        file = folder / place
        if not file.is_file():
            return f"made anew: {file} is missing"
        if file_hash(file) != expected:
            return f"made anew: {file} was changed after the step was done"
    before = done.get("sources", {})
    changed = [name for name, made in sources.items() if before.get(name, made) != made]
    return f"made anew: {', '.join(changed)} came out differently than what this step was made from" if changed else ""


def _what_changed(places: Sequence[Path], inputs: Mapping[str, Any]) -> str:
    """The inputs that are others than when the step was begun before; empty when it never was, or when nothing changed."""
    before = next((started["inputs"] for place in places if "inputs" in (started := _read(place / STARTED_FILE))), None)
    if before is None:
        return ""
    changed = [name for name in inputs if name != "versions" and before.get(name) != inputs[name]]
    old, new = before.get("versions", {}), inputs.get("versions", {})
    changed += ["posttrain's code"] if old.get("code") != new.get("code") else []
    changed += [f"{name} {old[name]} -> {new[name]}" for name in new if name != "code" and old.get(name, new[name]) != new[name]]
    return f"made anew, as these changed: {', '.join(changed)}" if changed else ""
