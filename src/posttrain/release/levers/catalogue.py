"""The catalogue of failures: a rule looks at the evidence of a run, and a find names failure, first lever and what not to rush into.

One rule is one small function, registered with its lever. It yields what it saw with the figures that show it, yields nothing where all is
well, and raises NoEvidence where the run holds nothing it could look at.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from posttrain.config import Registry
from posttrain.release.levers.evidence import Evidence, NoEvidence

Layer = Literal["measurement", "data", "training", "reward", "behaviour", "release"]
LAYERS: tuple[Layer, ...] = ("measurement", "data", "training", "reward", "behaviour", "release")
"""Where a cause lies. What stands earlier is mended first: a figure of a broken measurement, or of leaked data, means nothing."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A number a find rests on, and the file of the run that holds it."""

    file: str
    name: str
    value: float | str


@dataclass(frozen=True, slots=True)
class Seen:
    """What a rule saw: one sentence, and the figures."""

    text: str
    figures: tuple[Figure, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """A failure with its lever, and the function that looks for it."""

    name: str
    layer: Layer
    failure: str
    lever: str
    not_yet: str
    look: Callable[[Evidence], Iterator[Seen]]


@dataclass(frozen=True, slots=True)
class Finding:
    """A failure that was found."""

    rule: str
    layer: Layer
    failure: str
    seen: str
    lever: str
    not_yet: str
    figures: tuple[Figure, ...]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found, causes first; which rules looked and found nothing; which could not look, and what they would need."""

    folder: str
    findings: tuple[Finding, ...]
    silent: tuple[str, ...]
    blind: tuple[tuple[str, str], ...]

    @property
    def conclusion(self) -> Literal["found", "nothing found", "not enough evidence"]:
        """``nothing found`` only where some rule could look."""
        return "found" if self.findings else "nothing found" if self.silent else "not enough evidence"

    def dump(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {"conclusion": self.conclusion} | asdict(self)

    def lines(self) -> list[str]:
        """For the terminal."""
        looked = f"{len(self.silent) + len({find.rule for find in self.findings})} of {len(RULES.names())} rules had evidence"
        lines = [f"{self.conclusion}: {len(self.findings)} findings, {looked}" if self.findings else f"{self.conclusion}; {looked}"]
        for number, find in enumerate(self.findings, 1):
            lines += [f"{number}. {find.failure}: {find.seen}", f"   first lever:  {find.lever}", f"   not yet:      {find.not_yet}"]
            figures = [f"{figure.name} {_number(figure.value)} ({figure.file})" for figure in find.figures]
            lines.append(f"   rests on:     {', '.join(figures)}")
        needs = sorted({need for _, need in self.blind})
        return [*lines, f"not looked at, for want of: {'; '.join(needs)}"] if needs else lines


RULES: Registry[Rule] = Registry("rule")


def rule(
    name: str, layer: Layer, failure: str, *, lever: str, not_yet: str
) -> Callable[[Callable[[Evidence], Iterator[Seen]]], Callable[[Evidence], Iterator[Seen]]]:
    """Register the decorated function as the rule that looks for a failure."""

    def register(look: Callable[[Evidence], Iterator[Seen]]) -> Callable[[Evidence], Iterator[Seen]]:
        RULES.register(name)(Rule(name, layer, failure, lever, not_yet, look))
        return look

    return register


def diagnose(folder: str | Path) -> Diagnosis:
    """Let every rule look at a run's folder. Raises ConfigError when it is no folder, DataError when a file in it is damaged."""
    evidence = Evidence.load(folder)
    findings: list[Finding] = []
    silent, blind = [], []
    for entry in sorted((RULES.get(name) for name in RULES), key=lambda entry: (LAYERS.index(entry.layer), entry.name)):
        try:
            seen = list(entry.look(evidence))
        except NoEvidence as missing:
            blind.append((entry.name, str(missing)))
            continue
        findings += [Finding(entry.name, entry.layer, entry.failure, one.text, entry.lever, entry.not_yet, one.figures) for one in seen]
        if not seen:
            silent.append(entry.name)
    return Diagnosis(str(folder), tuple(findings), tuple(silent), tuple(blind))


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"
