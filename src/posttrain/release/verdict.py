"""What a gate says: single checks, the samples they rest on, and one verdict."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from posttrain.evaluation import Rate
from posttrain.metrics import Interval
from posttrain.release.two_metrics import TwoMetricReading

Outcome = Literal["pass", "block", "inconclusive", "infrastructure"]
Status = Literal["ship", "block", "inconclusive", "infrastructure"]
Change = Literal["regressed", "improved", "both_good", "both_bad", "unknown"]

EXIT_CODES: Mapping[Status, int] = {"ship": 0, "block": 1, "infrastructure": 3, "inconclusive": 4}


@dataclass(frozen=True, slots=True)
class Check:
    """One question of the gate and its answer. ``slice`` is "" for the whole suite; figures are None where they do not exist."""

    kind: Literal["threshold", "non_inferiority", "unscored", "evidence", "substance", "two_metric", "slice"]
    metric: str
    slice: str
    outcome: Outcome
    required: str
    reason: str
    role: str = "guardrail"
    value: float | None = None
    low: float | None = None
    high: float | None = None
    num_samples: int = 0

    @property
    def name(self) -> str:
        """Such as ``non_inferiority: good [table]``."""
        return f"{self.kind}: {self.metric}" + (f" [{self.slice}]" if self.slice else "")


@dataclass(frozen=True, slots=True)
class Comparison:
    """A figure before and after. ``difference`` is candidate minus baseline on samples that neither left unscored, each version over
    those where the score applies to it. None without any, and where a single draw leaves its interval without bounds.
    """

    metric: str
    slice: str
    baseline: Rate
    candidate: Rate
    difference: Interval | None


@dataclass(frozen=True, slots=True)
class SampleChange:
    """What became of one sample: G(x) before and after (None is unknown or not applicable)."""

    case: str
    sample: int
    baseline_good: bool | None
    candidate_good: bool | None

    @property
    def change(self) -> Change:
        """Regressed, improved, or the same."""
        if self.baseline_good is None or self.candidate_good is None:
            return "unknown"
        if self.candidate_good == self.baseline_good:
            return "both_good" if self.candidate_good else "both_bad"
        return "improved" if self.candidate_good else "regressed"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Ship, block, inconclusive or infrastructure, with everything it rests on."""

    status: Status
    gate: str
    suite: str
    suite_hash: str
    candidate: str
    baseline: str
    checks: tuple[Check, ...]
    comparisons: tuple[Comparison, ...]
    changes: tuple[SampleChange, ...]
    two_metric: TwoMetricReading | None = None

    @property
    def exit_code(self) -> int:
        """0 ship, 1 block, 3 infrastructure, 4 inconclusive."""
        return EXIT_CODES[self.status]

    @property
    def headline(self) -> str:
        """One sentence."""
        failing = [check for check in self.checks if check.outcome == _DECIDING[self.status]]
        names = ", ".join(check.name for check in failing[:3]) + (f" and {len(failing) - 3} more" if len(failing) > 3 else "")
        return {
            "ship": f"all {len(self.checks)} checks hold",
            "block": f"{len(failing)} of {len(self.checks)} checks say no: {names}",
            "inconclusive": f"no check says no, but {len(failing)} of {len(self.checks)} cannot be decided: {names}",
            "infrastructure": f"too many samples could not be scored: {names}",
        }[self.status]

    def dump(self) -> dict[str, Any]:
        """As plain JSON types."""
        counts: dict[str, int] = {}
        for change in self.changes:
            counts[change.change] = counts.get(change.change, 0) + 1
        return {
            "verdict": self.status,
            "exit_code": self.exit_code,
            "headline": self.headline,
            "gate": self.gate,
            "suite": self.suite,
            "suite_hash": self.suite_hash,
            "candidate": self.candidate,
            "baseline": self.baseline,
            "checks": [{"name": check.name} | asdict(check) for check in self.checks],
            "comparisons": [asdict(comparison) for comparison in self.comparisons],
            "changes": counts,
            "regressed": [f"{c.case}#{c.sample}" for c in self.changes if c.change == "regressed"],
            "two_metric": self.two_metric.dump() if self.two_metric else None,
        }


_DECIDING: Mapping[Status, Outcome] = {
    "ship": "pass",
    "block": "block",
    "inconclusive": "inconclusive",
    "infrastructure": "infrastructure",
}


def overall(checks: tuple[Check, ...]) -> Status:
    """Infrastructure before block before inconclusive; ship only when every check passes and one of them is about the model's figures."""
    outcomes = {check.outcome for check in checks}
    figures = [check for check in checks if check.kind in ("threshold", "non_inferiority", "two_metric")]
    if "infrastructure" in outcomes:
        return "infrastructure"
    if "block" in outcomes:
        return "block"
    return "inconclusive" if "inconclusive" in outcomes or not figures else "ship"


def verdict_lines(verdict: Verdict) -> list[str]:
    """A verdict for the terminal: the word, the sentence, and every check, what decides first."""
    order = ("infrastructure", "block", "inconclusive", "pass")
    lines = [f"{verdict.status.upper()}: {verdict.headline}"]
    routine = [check for check in verdict.checks if check.kind == "unscored" and check.outcome == "pass"]
    for check in sorted((c for c in verdict.checks if c not in routine), key=lambda check: order.index(check.outcome)):
        lines.append(f"  {check.outcome:<14}  {check.name}: {check.required}; {check.reason}")
    counts = verdict.dump()["changes"]
    if routine:
        lines.append(f"  pass            unscored: {len(routine)} figures within the suite's limit")
    if verdict.two_metric:
        lines += ["  " + line for line in verdict.two_metric.lines()]
    return [*lines, "  samples: " + ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in sorted(counts.items()))]
