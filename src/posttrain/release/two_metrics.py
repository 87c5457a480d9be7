"""Two metrics read together: did the targets gain, and did the guardrails hold?

Every figure is a paired difference, candidate minus baseline, on the samples both versions answered; samples of one group count as
one draw (:func:`posttrain.metrics.paired_difference`: adjusted Wald for passes, bootstrap-t of the mean otherwise). A *relative*
figure is the ratio of means minus one, from the linearised values (a - R b) / mean(b) + R - 1. Unscored passes and fractions are
counted against the candidate on one side of the interval and for it on the other; samples without an amount are left out.

A target is ``gained`` when its interval lies above zero and its value reaches ``min_gain``; ``no gain`` when the interval lies below
``min_gain``; ``worse`` when it lies below zero and reaches ``-min_gain``; else ``unknown``. A guardrail ``held`` when its interval is
inside the margin, is ``broken`` when it lies outside, and else is ``unknown``; with ``min_gain`` it held when it gained and is broken
when its interval lies below ``min_gain``.

| targets | guardrails | verdict |
|---|---|---|
| one gained, none worse | all held | real improvement |
| one gained | one broken (or another target worse) | reward gaming |
| none gained, one worse | any | regression |
| all without gain | one broken | pointless drift |
| anything else | | not enough evidence |

Errors. Claims (gained, worse, broken) are corrected by Holm's step-down procedure (1979, Scand. J. Statist. 6:65) over the targets and
over the guardrails. The intervals are two-sided: at 95 % the chance of any false claim of a family in one direction is at most 2.5 %.
Targets are claimed in both directions (gained, worse), and so are ``stable`` guardrails: at most 5 % in all. *Held* needs no correction:
all guardrails have to hold, an intersection-union test (Berger 1982, Technometrics 24:295). A false ``real improvement`` takes a false
claim in one direction and so comes with at most 2.5 %, whether no target gained or a guardrail is beyond its limit. The interval is held
against zero, the value against ``min_gain``: a true gain somewhat below ``min_gain`` is estimated above it in up to half of all suites of
its size, and is then called a real improvement. Readings by slice
are not corrected for the number of slices: they say where to look and decide nothing.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from posttrain.errors import ConfigError
from posttrain.evaluation import EvaluationResult
from posttrain.metrics import Interval, mean_interval, paired_difference
from posttrain.release.gate import GateConfig, GuardrailMetric, TargetMetric, TwoMetricConfig
from posttrain.release.samples import Key, metric_score

Finding = Literal["real improvement", "reward gaming", "pointless drift", "regression", "not enough evidence"]
State = Literal["gained", "worse", "no gain", "held", "broken", "unknown"]
Values = NDArray[np.float64]
_NUM_ROWS = 8


@dataclass(frozen=True, slots=True)
class Change:
    """A declared figure before and after on the same samples, all [sample]; unscored passes and fractions are NaN.

    ``problem``: why it cannot be read, "" when it can.
    """

    spec: TargetMetric | GuardrailMetric
    after: Values
    before: Values
    groups: Sequence[str]
    keys: Sequence[Key] = ()
    problem: str = ""

    @property
    def scored(self) -> NDArray[np.bool_]:
        """[sample]: scored in both versions."""
        return ~(np.isnan(self.after) | np.isnan(self.before))

    def interval(self, confidence: float) -> Interval:
        """Of after minus before, or of the ratio of means minus one.

        The value is that of the samples scored in both; the bounds hold whatever the unscored ones would have been.
        """
        worst = self._difference(0.0, 1.0, confidence)
        if self.scored.all():
            return worst
        return replace(worst, value=self._value(), high=self._difference(1.0, 0.0, confidence).high)

    def _value(self) -> float:
        after, before = float(self.after[self.scored].mean()), float(self.before[self.scored].mean())
        return after / before - 1 if self.spec.relative else after - before

    def _difference(self, unscored_after: float, unscored_before: float, confidence: float) -> Interval:
        after, before = np.nan_to_num(self.after, nan=unscored_after), np.nan_to_num(self.before, nan=unscored_before)
        if not self.spec.relative:
            return paired_difference(after, before, groups=self.groups, confidence=confidence)
        base = float(before.mean())
        ratio = float(after.mean()) / base
        return mean_interval((after - ratio * before) / base + ratio - 1, groups=self.groups, confidence=confidence)


@dataclass(frozen=True, slots=True)
class Figure:
    """One target or guardrail: its difference with the interval (None where it cannot be read), its state and why."""

    metric: str
    role: Literal["target", "guardrail"]
    state: State
    required: str
    value: float | None
    low: float | None
    high: float | None
    num_samples: int
    num_groups: int
    reason: str = ""

    @property
    def text(self) -> str:
        """Such as ``reward +0.42 [0.31, 0.53]: gained``."""
        if self.value is None or self.low is None or self.high is None:
            return f"{self.metric}: {self.reason}"
        return f"{self.metric} {self.value:+.3g} [{self.low:+.3g}, {self.high:+.3g}]: {self.state}"


@dataclass(frozen=True, slots=True)
class Reading:
    """The verdict over a slice ("" is the whole suite), and what it rests on."""

    slice: str
    verdict: Finding
    reason: str
    figures: tuple[Figure, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """A sample that shows the verdict: metric to (before, after), None where unscored."""

    case: str
    sample: int
    values: Mapping[str, tuple[float | None, float | None]]


@dataclass(frozen=True, slots=True)
class TwoMetricReading:
    """The reading of a whole suite and of its slices, with the samples that show it best."""

    overall: Reading
    slices: tuple[Reading, ...]
    rows: tuple[Row, ...]

    def dump(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For the terminal."""
        lines = [f"two metrics: {self.overall.verdict.upper()}: {self.overall.reason}"]
        for figure in self.overall.figures:
            lines.append(f"  {figure.role:<9}  {figure.text}; required: {figure.required}")
        for reading in self.slices:
            lines.append(f"  slice {reading.slice}: {reading.verdict}: {reading.reason}")
        if self.rows:
            lines.append("  see: " + ", ".join(f"{row.case}#{row.sample}" for row in self.rows))
        return lines


def read_two_metrics(
    candidate: EvaluationResult, baseline: EvaluationResult, config: GateConfig, problems: Mapping[str, str] | None = None
) -> TwoMetricReading:
    """Read two evaluations of one suite under the gate's ``two_metric`` section, whole and by slice.

    ``problems``: metrics that are no evidence, and why; their figures are ``unknown``. Raises ConfigError when the gate has no such
    section or the evaluations are of different suites.
    """
    if config.two_metric is None:
        raise ConfigError(f"gate {config.name} has no two_metric section", hint="declare targets and guardrails in the gate file")
    if candidate.suite_hash != baseline.suite_hash:
        raise ConfigError(
            f"{candidate.folder} and {baseline.folder} are results of different suites", hint="evaluate both models on one suite"
        )
    names = dict.fromkeys(name for case in candidate.cases.values() for name in case.slices)
    changes_in = partial(_changes, candidate, baseline, config, problems or {})
    changes = changes_in("")
    read = partial(read_changes, config=config.two_metric, min_samples=config.min_samples, confidence=config.confidence)
    overall = read(changes)
    slices = tuple(read(changes_in(name), slice_name=name) for name in names)
    return TwoMetricReading(overall, slices, _telling_rows(overall, changes))


def read_changes(
    changes: Sequence[Change], config: TwoMetricConfig, *, min_samples: int = 30, confidence: float = 0.95, slice_name: str = ""
) -> Reading:
    """The verdict over changes, one for each target and guardrail of ``config`` in its order."""
    num_targets = len(config.targets)
    named = [replace(change, problem=change.problem or _problem(change, min_samples)) for change in changes]
    targets = _target_figures(named[:num_targets], confidence)
    guardrails = _guardrail_figures(named[num_targets:], confidence)
    verdict, reason = verdict_of(targets, guardrails)
    return Reading(slice_name, verdict, reason, (*targets, *guardrails))


def verdict_of(targets: Sequence[Figure], guardrails: Sequence[Figure]) -> tuple[Finding, str]:
    """The table of this module: what states of targets and guardrails come to, and why."""
    gained, worse, flat = (_named(targets, state) for state in ("gained", "worse", "no gain"))
    broken, open_guardrails = _named(guardrails, "broken"), _named(guardrails, "unknown")
    if gained and (broken or worse):
        return "reward gaming", f"{gained} gained, but {' and '.join(filter(None, (broken, worse)))} got worse"
    if gained and not open_guardrails:
        return "real improvement", f"{gained} gained and every guardrail held"
    if gained:
        return "not enough evidence", f"{gained} gained, but whether {open_guardrails} held cannot be told"
    if worse:
        return "regression", f"{worse} got worse" + (f", and so did {broken}" if broken else "")
    if broken and all(figure.state == "no gain" for figure in targets):
        return "pointless drift", f"{flat} gained nothing worth having while {broken} moved beyond the limit"
    unknown = _named(targets, "unknown")
    if broken:
        return "not enough evidence", f"{broken} moved beyond the limit, but whether {unknown} gained cannot be told"
    if unknown:
        return "not enough evidence", f"whether {unknown} gained cannot be told"
    return "not enough evidence", f"{flat} gained nothing worth having and no guardrail is shown to be broken: nothing to decide on"


def _named(figures: Iterable[Figure], state: State) -> str:
    return " and ".join(figure.metric for figure in figures if figure.state == state)


# ---- states ----------------------------------------------------------------------------------------------------------------


def _target_figures(changes: Sequence[Change], confidence: float) -> list[Figure]:
    moved = step_down([_claim(change, lambda low, high: low > 0 or high < 0) for change in changes], confidence)
    figures = []
    for change, level in zip(changes, moved, strict=True):
        limit = change.spec.min_gain or 0.0
        figure = _figure(change, "target", f"gain of at least {limit:g}{_unit(change)}", level or confidence)
        if figure.value is not None:
            low, high = _gain(change, level or confidence)
            state: State = "no gain" if high < limit else "unknown"
            if level and low > 0 and _better(change, figure.value) >= limit:
                state = "gained"
            elif level and high < 0 and low <= -limit:
                state = "worse"
            figure = replace(figure, state=state)
        figures.append(figure)
    return figures


def _guardrail_figures(changes: Sequence[Change], confidence: float) -> list[Figure]:
    broken = step_down([_claim(change, partial(_is_broken, change)) for change in changes], confidence)
    figures = []
    for change, level in zip(changes, broken, strict=True):
        figure = _figure(change, "guardrail", _guardrail_text(change), level or confidence)
        if figure.value is not None:
            low, high = _gain(change, confidence)
            held = _is_held(change, _better(change, figure.value), low, high)
            figure = replace(figure, state="broken" if level else "held" if held else "unknown")
        figures.append(figure)
    return figures


def _is_broken(change: Change, low: float, high: float) -> bool:
    """Is the gain's interval wholly beyond the guardrail's limit?"""
    spec = change.spec
    assert isinstance(spec, GuardrailMetric)
    if spec.min_gain is not None:
        return high < spec.min_gain
    margin = spec.margin or 0.0
    return high < -margin or (spec.direction == "stable" and low > margin)


def _is_held(change: Change, value: float, low: float, high: float) -> bool:
    spec = change.spec
    assert isinstance(spec, GuardrailMetric)
    if spec.min_gain is not None:
        return low > 0 and value >= spec.min_gain
    margin = spec.margin or 0.0
    return low >= -margin and (spec.direction != "stable" or high <= margin)


def _better(change: Change, value: float) -> float:
    """A difference with better upwards."""
    return -value if change.spec.direction == "lower" else value


def _gain(change: Change, confidence: float) -> tuple[float, float]:
    """The interval with better upwards; as it is where any change is drift."""
    interval = change.interval(confidence)
    return (-interval.high, -interval.low) if change.spec.direction == "lower" else (interval.low, interval.high)


Claim = Callable[[float], bool]


def _claim(change: Change, shown: Callable[[float, float], bool]) -> Claim:
    def at(confidence: float) -> bool:
        return not change.problem and shown(*_gain(change, confidence))

    return at


def step_down(claims: Sequence[Claim], confidence: float) -> list[float | None]:
    """Holm's procedure on intervals: for each claim the confidence at which it is shown, None when it is not.

    With m claims open, each is tried at 1 - (1 - confidence) / m; those shown are taken out and the rest tried again with a smaller m. That
    is the order of p-values, without p-values.
    """
    levels: list[float | None] = [None] * len(claims)
    while waiting := [i for i, level in enumerate(levels) if level is None]:
        level = 1 - (1 - confidence) / len(waiting)
        shown = [i for i in waiting if claims[i](level)]
        if not shown:
            break
        for i in shown:
            levels[i] = level
    return levels


def _figure(change: Change, role: Literal["target", "guardrail"], required: str, confidence: float) -> Figure:
    """The figure with its raw difference, not yet judged."""
    name, n, num_groups = change.spec.metric, len(change.after), len(set(change.groups))
    if change.problem:
        return Figure(name, role, "unknown", required, None, None, None, n, num_groups, change.problem)
    interval = change.interval(confidence)
    if not math.isfinite(interval.low) or not math.isfinite(interval.high):
        return Figure(name, role, "unknown", required, None, None, None, n, num_groups, f"no interval from {num_groups} groups")
    return Figure(name, role, "unknown", required, interval.value, interval.low, interval.high, n, num_groups)


def _problem(change: Change, min_samples: int) -> str:
    """Why a figure cannot be read, "" when it can."""
    n = len(change.after)
    num_cases = len({case for case, _ in change.keys}) if change.keys else n
    if num_cases < min_samples:
        return f"only {num_cases} paired cases, {min_samples} needed"
    if not change.scored.any():
        return f"none of {n} samples was scored in both versions"
    if change.spec.relative and not float(change.before[change.scored].mean()) > 0:
        return "the baseline's mean is not above zero, so there is no ratio to it"
    return ""


def _unit(change: Change) -> str:
    return " of the baseline's mean" if change.spec.relative else ""


def _guardrail_text(change: Change) -> str:
    spec = change.spec
    assert isinstance(spec, GuardrailMetric)
    if spec.min_gain is not None:
        return f"gain of at least {spec.min_gain:g}{_unit(change)}"
    way = {"higher": "at most {} lower", "lower": "at most {} higher", "stable": "within {} either way"}[spec.direction]
    return way.format(f"{spec.margin:g}{_unit(change)}")


# ---- from results ----------------------------------------------------------------------------------------------------------


def _changes(
    candidate: EvaluationResult, baseline: EvaluationResult, config: GateConfig, problems: Mapping[str, str], slice_name: str
) -> list[Change]:
    assert config.two_metric is not None
    changes = [_change(spec, candidate, baseline, config, slice_name) for spec in config.two_metric.entries]
    return [replace(change, problem=problems.get(change.spec.metric, "")) for change in changes]


def _change(
    spec: TargetMetric | GuardrailMetric, candidate: EvaluationResult, baseline: EvaluationResult, config: GateConfig, slice_name: str
) -> Change:
    """Samples of the slice that apply to both versions; of amounts, those measured in both."""
    keys: list[Key] = []
    after: list[float] = []
    before: list[float] = []
    for key, sample in candidate.samples.items():
        if (slice_name and slice_name not in candidate.cases[sample.case].slices) or key not in baseline.samples:
            continue
        new, old = (metric_score(entry, spec.metric, config) for entry in (sample, baseline.samples[key]))
        unknown = new.value is None or old.value is None
        if "not_applicable" in (new.status, old.status) or (unknown and "amount" in (new.kind, old.kind)):
            continue
        keys.append(key)
        after.append(math.nan if new.value is None else new.value)
        before.append(math.nan if old.value is None else old.value)
    groups = [candidate.cases[case].group for case, _ in keys]
    return Change(spec, np.array(after), np.array(before), groups, keys)


def _telling_rows(reading: Reading, changes: Sequence[Change]) -> tuple[Row, ...]:
    """The samples that show the verdict best: largest sum, over the figures it rests on, of their movement in standard deviations.

    It rests on what gained, got worse or broke; where nothing did, on every figure, whichever way it moved.
    """
    states = {figure.metric: figure for figure in reading.figures}
    telling = [change for change in changes if states[change.spec.metric].state in ("gained", "worse", "broken")] or list(changes)
    weight: dict[Key, float] = {}
    values: dict[Key, dict[str, tuple[float | None, float | None]]] = {}
    for change in changes:
        moved = np.nan_to_num(change.after - change.before)
        spread = float(moved.std()) or 1.0
        value = states[change.spec.metric].value
        for key, movement, new, old in zip(change.keys, moved, change.after, change.before, strict=True):
            values.setdefault(key, {})[change.spec.metric] = (_known(old), _known(new))
            if change in telling:
                toward = movement * math.copysign(1, value) if value and states[change.spec.metric].state != "unknown" else abs(movement)
                weight[key] = weight.get(key, 0.0) + toward / spread
    best = sorted((key for key in weight if weight[key] > 0), key=lambda key: (-weight[key], key))[:_NUM_ROWS]
    return tuple(Row(*key, values[key]) for key in best)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
