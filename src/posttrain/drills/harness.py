"""Drills: put a fault into a healthy run, and expect the right check to say so, with the right diagnosis.

A drill is one function ``(folder, faulty) -> Found`` that sets the run up, puts the fault in when ``faulty``, and asks a check of the
product, which answers or raises. Harness and drill hold no diagnosis of their own: what is reported is what the check said. A drill
passes when the check is silent on the healthy run and, on its faulty twin, says what ``expects`` looks for; a check that is missing, or
objects to both, fails it.
"""

import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from posttrain.config import Registry
from posttrain.errors import ConfigError, PosttrainError


@dataclass(frozen=True, slots=True)
class Found:
    """What a check said of a run: its diagnosis, "" when it has no objection, and the figures it rests on."""

    diagnosis: str
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Drill:
    """``number`` is its place in the list of failures; ``expects`` a regular expression the right diagnosis matches."""

    name: str
    number: int
    fault: str
    expects: str
    run: Callable[[Path, bool], Found]


@dataclass(frozen=True, slots=True)
class DrillReport:
    """``caught``: the check found the fault under its right name. ``healthy_passes``: it had nothing against the healthy twin."""

    name: str
    number: int
    fault: str
    caught: bool
    healthy_passes: bool
    diagnosis: str
    healthy_diagnosis: str
    evidence: Mapping[str, Any]
    healthy_evidence: Mapping[str, Any]
    seconds: float

    @property
    def passed(self) -> bool:
        """Caught, and no false alarm."""
        return self.caught and self.healthy_passes

    def dump(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)


DRILLS: Registry[Drill] = Registry("drill")


def drill(name: str, *, number: int, fault: str, expects: str) -> Callable[[Callable[[Path, bool], Found]], Drill]:
    """Register the decorated function as a drill; see :class:`Drill`."""

    def register(run: Callable[[Path, bool], Found]) -> Drill:
        return DRILLS.register(name)(Drill(name, number, fault, expects, run))

    return register


def check_free(folders: Iterable[Path]) -> None:
    """Raise ConfigError where a drill's folder holds anything: a drill starts afresh."""
    for folder in folders:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"{folder}: not empty", hint="give --keep a new folder, or remove this one")


def run_drill(entry: Drill, folder: Path) -> DrillReport:
    """Run the healthy twin and the faulty one, each in a folder of its own, under the same check.

    Raises ConfigError when ``folder`` is not empty.
    """
    check_free([folder])
    started = time.monotonic()
    healthy, faulty = (_run(entry, folder / name, name == "faulty") for name in ("healthy", "faulty"))
    return DrillReport(
        name=entry.name,
        number=entry.number,
        fault=entry.fault,
        caught=re.search(entry.expects, faulty.diagnosis, re.DOTALL) is not None,
        healthy_passes=not healthy.diagnosis,
        diagnosis=faulty.diagnosis,
        healthy_diagnosis=healthy.diagnosis,
        evidence=faulty.evidence,
        healthy_evidence=healthy.evidence,
        seconds=round(time.monotonic() - started, 2),
    )


def _run(entry: Drill, folder: Path, faulty: bool) -> Found:
    """A check that raises says so by its error; defects of the drill itself go through."""
    folder.mkdir(parents=True)
    try:
        return entry.run(folder, faulty)
    except PosttrainError as error:
        return Found(error.message)


def drill_lines(reports: Iterable[DrillReport]) -> list[str]:
    """For the terminal: a line a drill, and what the check said."""
    lines = []
    for report in reports:
        state = "caught" if report.passed else "NOT CAUGHT" if not report.caught else "FALSE ALARM"
        lines.append(f"{state:<11}  {report.number:>2}  {report.name}: {report.fault} ({report.seconds:.1f} s)")
        lines += [f"      {line}" for line in (report.diagnosis or "the check said nothing").splitlines()[:4]]
        if not report.healthy_passes:
            lines.append(f"      on the healthy twin: {report.healthy_diagnosis.splitlines()[0]}")
        figures = [f"{name} {_number(report.healthy_evidence.get(name))} -> {_number(value)}" for name, value in report.evidence.items()]
        lines += [f"      healthy -> faulty: {', '.join(figures)}"] if figures else []
    return lines


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
