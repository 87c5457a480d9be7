"""What a run left on disk, as its rules read it. A rule asks for what it needs; what is not there raises NoEvidence."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from posttrain.errors import ConfigError, DataError
from posttrain.metrics import Interval, mean_interval

KNOWN: Mapping[str, tuple[str, ...]] = {
    "contamination.json": ("num_cases", "hits"),
    "data.json": (),
    "duplicates.json": ("num_records", "exact", "near"),
    "evaluation.json": (),
    "history.json": (),
    "labels.json": (),
    "result.json": (),
    "summary.json": (),
    "verdict.json": ("checks", "verdict", "comparisons"),
}
"""Files that are evidence, wherever they lie under the run's folder, and what each must hold; one of that name without it is not ours."""
_DEPTH = 5
T = TypeVar("T")
MIN_STEPS = 12  # of a curve whose quarters are compared


class NoEvidence(Exception):  # a rule could not look; not an error of the user
    """The run holds nothing a rule could look at; the text says what it would need."""


def needed(found: Sequence[T], what: str) -> Sequence[T]:
    """``found`` itself. Raises NoEvidence naming ``what`` when it is empty: a rule without its own figure has not looked."""
    if not found:
        raise NoEvidence(what)
    return found


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

    def last_quarter(self, name: str) -> Interval:
        """Mean of the figure over the last quarter of the steps, with its interval over steps."""
        values = self.curve(name)
        return mean_interval(values[-(len(values) // 4) :])

    def change(self, name: str) -> Interval:
        """Mean of the last quarter less that of the first, with an interval over steps (Welch)."""
        values = self.curve(name)
        quarter = len(values) // 4
        first, last = np.array(values[:quarter]), np.array(values[-quarter:])
        error = float(np.sqrt(first.var(ddof=1) / quarter + last.var(ddof=1) / quarter))
        value = float(last.mean() - first.mean())
        return Interval(value, value - 2.1 * error, value + 2.1 * error, len(values), 0.95, "welch")


@dataclass(frozen=True, slots=True)
class Versions:
    """Evaluations on one suite: of the candidate, and of the baseline where the run holds it."""

    candidate: Source
    baseline: Source | None


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
                source = Source(str(path.relative_to(root)), _read(path))
                if _is_ours(path.name, source.data):
                    found.setdefault(path.name, []).append(source)
        return cls(root, found)

    def all(self, name: str) -> Sequence[Source]:
        """Every file of that name, in the order of the run's steps. Raises NoEvidence when there is none."""
        if not self.files.get(name):
            raise NoEvidence(f"a {name}")
        return self.files[name]

    def trainings(self, figure: str) -> list[Training]:
        """The stages whose history holds a figure at 12 steps or more. Raises NoEvidence when none does."""
        found = [training for training in self._trainings if len(training.curve(figure)) >= MIN_STEPS]
        return list(needed(found, f"a training history of {MIN_STEPS} steps with {figure}"))

    def stages(self, has: Callable[[Mapping[str, Any]], bool], what: str) -> Sequence[Source]:
        """Results of the stages that measured what a rule reads. Raises NoEvidence naming ``what`` when none did."""
        return needed([source for source in self.files.get("result.json", ()) if has(source.data)], what)

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

    def versions(self) -> list[Versions]:
        """Candidate and baseline of each suite: as a verdict names them, else by when they were trained (an untrained model first).

        Raises NoEvidence when there is no evaluation, or for no suite can be told which of several is the candidate's.
        """
        suites: dict[str, list[Source]] = {}
        for source in self.all("summary.json"):
            if "scores" in source.data:
                suites.setdefault(source.data["suite"]["name"], []).append(source)
        verdicts = [source.data for source in self.files.get("verdict.json", ())]
        found = [_by_verdict(name, sources, verdicts) or _by_time(sources) for name, sources in suites.items()]
        known = [versions for versions in found if versions]
        return list(needed(known, "a verdict, or dates of training, that tell the candidate's evaluation from the baseline's"))

    def candidates(self) -> list[Source]:
        """Summaries of the candidate's evaluation on each suite. Raises NoEvidence as :meth:`versions` does."""
        return [versions.candidate for versions in self.versions()]

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
        rows = [(source, row) for source in self.all("verdict.json") for row in source.data["comparisons"] if row["difference"] is not None]
        yield from needed(rows, "a verdict with samples that both versions answered")


def _by_verdict(suite: str, sources: Sequence[Source], verdicts: Sequence[Mapping[str, Any]]) -> Versions | None:
    """The pair the verdicts on the suite name; None without one, where they name several, or where two evaluations bear one name."""
    named = {source.data.get("name"): source for source in sources}
    judged = {
        (verdict["candidate"], verdict.get("baseline"))
        for verdict in verdicts
        if verdict.get("suite", "").rpartition(" ")[0] == suite and verdict.get("candidate") in named
    }
    if len(named) < len(sources) or len(judged) != 1:
        return None
    candidate, baseline = judged.pop()
    return Versions(named[candidate], named.get(baseline))


def _by_time(sources: Sequence[Source]) -> Versions | None:
    """The one trained last, and the one trained first; None where the dates do not tell which is the last."""
    dated = sorted(((_trained(source), source) for source in sources), key=lambda one: one[0])
    if len(dated) == 1:
        return Versions(dated[0][1], None)
    if dated[-1][0] == dated[-2][0]:
        return None
    return Versions(dated[-1][1], dated[0][1] if dated[0][0] < dated[1][0] else None)


def _trained(source: Source) -> float:
    """Seconds since 1970 at which training began; minus infinity for a model that was not trained."""
    began = source.data.get("trained_at")
    return datetime.fromisoformat(began).timestamp() if began else -math.inf


def _is_ours(name: str, data: Any) -> bool:
    """Whether a file of a known name has the shape our own have."""
    if name == "history.json":
        return isinstance(data, list) and all(isinstance(entry, Mapping) for entry in data)
    if not isinstance(data, Mapping) or not data.keys() >= {*KNOWN[name]}:
        return False
    return name != "labels.json" or all(isinstance(entry, Mapping) for entry in data.values())


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: damaged: {error}", hint="let the step that wrote it run again") from None
