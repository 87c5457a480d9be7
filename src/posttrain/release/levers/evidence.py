"""What a run left on disk, as its rules read it. A rule asks for what it needs; what is not there raises NoEvidence."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.errors import ConfigError, DataError
from posttrain.metrics import Interval, mean_interval

KNOWN = (
    "calibration.json",
    "contamination.json",
    "data.json",
    "duplicates.json",
    "evaluation.json",
    "history.json",
    "labels.json",
    "result.json",
    "summary.json",
    "verdict.json",
)
"""Files that are evidence, wherever they lie under the run's folder."""
_DEPTH = 5


class NoEvidence(Exception):  # a rule could not look; not an error of the user
    """The run holds nothing a rule could look at; the text says what it would need."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file of the run, seen from its folder, and what is in it."""

    name: str
    data: Any


@dataclass(frozen=True, slots=True)
class Training:
    """One stage's training: the file it was read from, and ``history``, an entry a step."""

    source: str
    history: Sequence[Mapping[str, Any]]

    def curve(self, name: str) -> list[float]:
        """A figure step by step: the loss, or a metric of the objective. Empty where the stage has none."""
        found = [entry[name] if name in entry else entry.get("metrics", {}).get(name) for entry in self.history]
        return [float(value) for value in found if value is not None]

    def last_quarter(self, name: str) -> Interval | None:
        """Mean of the figure over the last quarter of the steps, with its interval over steps; None with fewer than 12 steps."""
        values = self.curve(name)
        return mean_interval(values[-(len(values) // 4) :]) if len(values) >= 12 else None

    def change(self, name: str) -> Interval | None:
        """Mean of the last quarter less that of the first, with an interval over steps (Welch); None with fewer than 12 steps."""
        values = self.curve(name)
        if len(values) < 12:
            return None
        quarter = len(values) // 4
        first, last = np.array(values[:quarter]), np.array(values[-quarter:])
        error = float(np.sqrt(first.var(ddof=1) / quarter + last.var(ddof=1) / quarter))
        value = float(last.mean() - first.mean())
        return Interval(value, value - 2.1 * error, value + 2.1 * error, len(values), 0.95, "welch")


@dataclass(frozen=True)
class Evidence:
    """Everything a run's folder holds that a rule may look at."""

    folder: Path
    files: Mapping[str, Sequence[Source]] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: str | Path) -> "Evidence":
        """Read a recipe's, a stage's or an evaluation's folder. Raises ConfigError when it is none, DataError for a damaged file."""
        root = Path(folder)
        if not root.is_dir():
            raise ConfigError(f"{root}: no such folder", hint="give the folder a recipe, a stage or `posttrain eval` wrote")
        found: dict[str, list[Source]] = {}
        for path in sorted(root.rglob("*.json")):
            parts = path.relative_to(root).parts
            if path.name in KNOWN and len(parts) <= _DEPTH and not {"checkpoints", "cache"} & {*parts}:
                found.setdefault(path.name, []).append(Source(str(path.relative_to(root)), _read(path)))
        return cls(root, found)

    def all(self, name: str) -> Sequence[Source]:
        """Every file of that name, in the order of the run's steps. Raises NoEvidence when there is none."""
        if not self.files.get(name):
            raise NoEvidence(f"a {name}")
        return self.files[name]

    def trainings(self, figure: str) -> list[Training]:
        """The stages whose history holds a figure. Raises NoEvidence when none does."""
        found = [training for training in self._trainings if training.curve(figure)]
        if not found:
            raise NoEvidence(f"a training history with {figure}")
        return found

    @cached_property
    def _trainings(self) -> list[Training]:
        results = [Training(one.name, one.data["history"]) for one in self.files.get("result.json", ()) if "history" in one.data]
        return results or [Training(one.name, one.data) for one in self.files.get("history.json", ())]

    def labels(self) -> Iterator[tuple[Source, Mapping[str, Any]]]:
        """The label report of each source of comparisons. Raises NoEvidence when there is none."""
        found = [
            (file, entry["quality"]) for file in self.files.get("labels.json", ()) for entry in file.data.values() if "quality" in entry
        ]
        if not found:
            raise NoEvidence("a report on labels")
        yield from found

    def candidates(self) -> list[Source]:
        """Summaries of the last evaluation of each suite: of trained models where there are any. Raises NoEvidence when there are none."""
        summaries = [source for source in self.all("summary.json") if "scores" in source.data]
        trained = [source for source in summaries if source.data.get("trained_at")] or summaries
        last = {source.data["suite"]["name"]: source for source in trained}
        if not last:
            raise NoEvidence("an evaluation")
        return list(last.values())

    def scores(self, *kinds: str, suffix: str = "") -> Iterator[tuple[Source, str, Mapping[str, Any]]]:
        """(evaluation, score name, its overall figures) of the candidates' scores that some kinds of scorer made."""
        found = False
        for source in self.candidates():
            made_by = source.data["suite"].get("kinds", {})
            for name, entry in source.data["scores"].items():
                if made_by.get(name) in kinds and name.endswith(suffix) and entry["overall"]["value"] is not None:
                    found = True
                    yield source, name, entry["overall"]
        if not found:
            raise NoEvidence(f"an evaluation with a score of kind {' or '.join(kinds)}")

    def comparisons(self) -> Iterator[tuple[Source, Mapping[str, Any]]]:
        """Figures before and after, from verdicts. Raises NoEvidence when there is none."""
        for source in self.all("verdict.json"):
            for row in source.data["comparisons"]:
                if row["difference"] is not None:
                    yield source, row


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: damaged: {error}", hint="let the step that wrote it run again") from None
