"""The gate file: what makes a sample good, and what has to hold before a version may ship. Written and frozen before training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from posttrain.config import Config, parse, read_yaml
from posttrain.errors import CheckFailed, ConfigError, suggest
from posttrain.evaluation import (
    Suite,
    changed_settings,
    check_frozen,
    check_settings_frozen,
    freeze_settings,
    freeze_suite,
    read_lock,
    read_suite,
)

AMOUNT_HAS_NO_MARGIN = "'{}' is an amount, and a margin is a share"
GOOD = "good"
LATENCY, COST = "latency_seconds", "cost"
AMOUNTS = (LATENCY, COST, "prompt_tokens", "completion_tokens")

Role = Literal["target", "guardrail"]
Slices = tuple[str, ...] | Literal["all"]


class Requirement(Config):
    """One part of G(x): a score of the suite and the value that passes."""

    score: str
    """Name of a score."""
    min: float = 1.0
    """Passes from this value on; 1 for scores that are pass or fail. Beside ``max``: no lower end unless it is written."""
    max: float | None = None
    """Passes up to this value, for amounts."""

    @property
    def low(self) -> float | None:
        """The value from which on it passes; None where only an upper end is given."""
        return self.min if self.max is None or "min" in self.model_fields_set else None


class GoodSample(Config):
    """G(x): a sample is good when every part passes. A part that is not applicable is left out; an unknown part never passes."""

    requires: tuple[Requirement, ...] = Field(min_length=1)
    """Scores that must pass: a name, or {score: ..., min: ...}."""
    max_latency_seconds: float | None = Field(None, gt=0)
    """Slowest accepted answer. Needs measured latencies: an answer from the cache has none and is unscored."""
    max_cost: float | None = Field(None, ge=0)
    """Dearest accepted answer, in the currency of `prices`."""

    @model_validator(mode="before")
    @classmethod
    def _names(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("requires"), list):
            data = data | {"requires": [{"score": part} if isinstance(part, str) else part for part in data["requires"]]}
        return data


class Prices(Config):
    """What tokens cost."""

    prompt_per_million: float = Field(0.0, ge=0)
    """A million prompt tokens."""
    completion_per_million: float = Field(0.0, ge=0)
    """A million generated tokens."""
    currency: str = "USD"
    """Shown beside costs."""


class Criterion(Config):
    """A threshold on one figure of the candidate."""

    metric: str
    """``good``, a score of the suite, or an amount: latency_seconds, cost, prompt_tokens, completion_tokens."""
    slices: Slices = ()
    """Nothing: the whole suite. A list: these slices. ``all``: the whole suite and every slice."""
    min: float | None = None
    """The figure must reach this."""
    max: float | None = None
    """The figure must not pass this."""
    bound: Literal["lower", "upper", "point"] | None = None
    """What is compared: the interval's nearer bound (lower for min, upper for max; the default) or the point estimate."""
    statistic: Literal["mean", "p50", "p95"] = "mean"
    """For amounts: their mean or a percentile."""
    role: Role = "guardrail"
    """``target``: what the change is meant to move; ``guardrail``: what must not suffer."""

    @model_validator(mode="after")
    def _sides(self) -> "Criterion":
        if (self.min is None) == (self.max is None):
            raise ValueError("give either min or max")
        wrong = "upper" if self.min is not None else "lower"
        if self.bound == wrong:
            raise ValueError(f"bound {wrong} does not go with {'min' if self.min is not None else 'max'}")
        if self.statistic != "mean" and self.metric not in AMOUNTS:
            raise ValueError(f"statistic {self.statistic} goes with amounts only ({', '.join(AMOUNTS)})")
        return self


class NonInferiority(Config):
    """The candidate may be at most ``margin`` worse than the version in service, on the same samples."""

    metric: str = GOOD
    """``good`` or a score of the suite that is a pass or a fraction."""
    margin: float = Field(default=0.02, ge=0, lt=1)
    """Accepted loss: 0.02 is two points."""
    slices: Slices = ()
    """Nothing: the whole suite. A list: these slices. ``all``: the whole suite and every slice."""
    role: Role = "guardrail"
    """``target``: what the change is meant to move; ``guardrail``: what must not suffer."""


class TargetMetric(Config):
    """What the change is meant to move."""

    metric: str
    """``good``, a score of the suite, or an amount."""
    direction: Literal["higher", "lower"] = "higher"
    """Which way is better."""
    min_gain: float = Field(gt=0)
    """The smallest gain worth having, in the metric's own units (0.05 of a share is five points). Below it, it counts as no gain."""
    relative: bool = False
    """``min_gain`` is a share of the baseline's mean instead."""


class GuardrailMetric(Config):
    """What must not suffer while the targets move."""

    metric: str
    """``good``, a score of the suite, or an amount."""
    direction: Literal["higher", "lower", "stable"] = "higher"
    """Which way is better; ``stable`` when any change is drift (the share of refusals, the length of answers)."""
    margin: float | None = Field(None, ge=0)
    """Accepted loss, in the metric's own units; for ``stable`` the accepted change either way."""
    min_gain: float | None = Field(None, gt=0)
    """Instead of a margin: it has to gain, and a gain below this is none. For a held-out reward that must follow the one trained on."""
    relative: bool = False
    """``margin`` or ``min_gain`` is a share of the baseline's mean instead: 0.2 on completion_tokens allows 20 % longer answers."""

    @model_validator(mode="after")
    def _one_limit(self) -> "GuardrailMetric":
        if (self.margin is None) == (self.min_gain is None):
            raise ValueError("give either margin or min_gain")
        if self.min_gain is not None and self.direction == "stable":
            raise ValueError("min_gain does not go with direction stable")
        return self


class TwoMetricConfig(Config):
    """Targets and guardrails that are read together; see ``release/two_metrics.py`` for the verdicts."""

    targets: tuple[TargetMetric, ...] = Field(min_length=1)
    """What the change is meant to move. One that gains for certain is enough, none may lose; corrected for how many there are."""
    guardrails: tuple[GuardrailMetric, ...] = Field(min_length=1)
    """What must not suffer: KL to the reference, refusals, valid format, length, a held-out reward. All have to hold."""

    @property
    def entries(self) -> "tuple[TargetMetric | GuardrailMetric, ...]":
        """Targets, then guardrails."""
        return (*self.targets, *self.guardrails)

    @model_validator(mode="after")
    def _once(self) -> "TwoMetricConfig":
        names = [entry.metric for entry in self.entries]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"'{twice[0]}' is named twice: a metric is one target or one guardrail")
        return self


class GateConfig(Config):
    """The gate file."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    """Short name."""
    version: str = "1"
    """Raised with every change."""
    description: str = ""
    """Why these criteria."""
    suite: str
    """The suite it judges by, relative to this file."""
    good: GoodSample
    """What makes a sample good."""
    criteria: tuple[Criterion, ...] = ()
    """Thresholds on the candidate."""
    non_inferiority: tuple[NonInferiority, ...] = (NonInferiority(),)
    """Comparisons with the version in service. By default G(x) overall, margin 2 points."""
    min_samples: int = Field(30, ge=1)
    """A slice with fewer applicable samples is inconclusive, whatever its figure."""
    confidence: float = Field(0.95, ge=0.5, lt=1)
    """Of every interval (two-sided)."""
    prices: Prices = Prices.model_validate({})
    """What tokens cost."""
    used_in_training: tuple[str, ...] = ()
    """Scores that also rewarded or filtered training data. They may not be the gate's only evidence."""
    two_metric: TwoMetricConfig | None = None
    """Targets and guardrails read together: tells a real improvement from reward gaming, pointless drift and regression."""

    @model_validator(mode="after")
    def _asks_something(self) -> "GateConfig":
        if not (self.criteria or self.non_inferiority or self.two_metric):
            raise ValueError("the gate asks nothing: give criteria, non_inferiority or two_metric, or anything would ship")
        return self

    def dump(self) -> dict[str, Any]:
        """The resolved form; a section that is not there is left out, so a gate frozen without one keeps its hash."""
        settings = super().dump()
        return settings if self.two_metric else {key: value for key, value in settings.items() if key != "two_metric"}


@dataclass(frozen=True, slots=True)
class Gate:
    """A loaded gate with its suite; both equal to what was frozen. Times are ISO 8601."""

    config: GateConfig
    path: Path
    suite: Suite
    suite_frozen_at: str
    frozen_at: str


def read_gate(path: str | Path) -> tuple[GateConfig, Suite]:
    """The gate file and its suite, names checked against each other; locks are not looked at."""
    file = Path(path)
    config = parse(GateConfig, read_yaml(file), where=str(file))
    suite = read_suite(file.parent / config.suite)
    for where, metric, slices in _references(config):
        known = [*suite.score_names, GOOD, *AMOUNTS] if where.startswith(("criteria", "two_metric")) else [*suite.score_names, GOOD]
        known = list(suite.score_names) if where.startswith(("good", "used")) else known
        if metric not in known:
            raise ConfigError(f"{file}: {where}: no score '{metric}' in {suite.path}", hint=suggest(metric, known))
        if where.startswith("non_inferiority") and metric in suite.amount_names:
            raise ConfigError(f"{file}: {where}: {AMOUNT_HAS_NO_MARGIN.format(metric)}", hint="write a criterion with max instead")
        for name in slices if slices != "all" else ():
            if name not in suite.slices:
                raise ConfigError(f"{file}: {where}: no case of {suite.path} is in slice '{name}'", hint=suggest(name, suite.slices))
    for number, criterion in enumerate(config.criteria):
        if criterion.metric == GOOD:
            check_limit(criterion, f"{file}: criteria.{number}")
    return config, suite


def check_limit(criterion: Criterion, where: str) -> None:
    """Raise ConfigError for a limit on a rate that lies outside 0 to 1: everything would pass, or nothing."""
    limit = criterion.max if criterion.min is None else criterion.min
    assert limit is not None  # the config holds exactly one of the two
    word = "max" if criterion.min is None else "min"
    if not 0 <= limit <= 1:
        hint = f"a rate is a share: write {limit / 100:g} for {limit:g} %" if 1 < limit <= 100 else "a rate lies between 0 and 1"
        raise ConfigError(f"{where}: {word} {limit:g} is no limit of the rate '{criterion.metric}'", hint=hint)


def freeze_gate(path: str | Path) -> dict[str, Any]:
    """Freeze a gate and its suite, before training; returns the gate's lock. Both are checked first."""
    config, suite = read_gate(path)
    freeze_suite(suite)
    return freeze_settings(Path(path), config.dump(), "gate")


def is_gate(path: str | Path) -> bool:
    """Is a YAML file a gate rather than a suite? A gate names its suite, a suite its cases."""
    return "suite" in read_yaml(path)


def gate_changes(path: str | Path) -> list[str]:
    """One line per setting of the gate file that differs from its lock; empty when equal or never frozen."""
    return changed_settings(Path(path), read_gate(path)[0].dump())


def _references(config: GateConfig) -> list[tuple[str, str, Slices]]:
    found: list[tuple[str, str, Slices]] = [(f"good.requires.{i}", part.score, ()) for i, part in enumerate(config.good.requires)]
    found += [(f"criteria.{i}", criterion.metric, criterion.slices) for i, criterion in enumerate(config.criteria)]
    if config.two_metric:
        found += [(f"two_metric.{entry.metric}", entry.metric, ()) for entry in config.two_metric.entries]
    found += [(f"non_inferiority.{i}", test.metric, test.slices) for i, test in enumerate(config.non_inferiority)]
    return found + [(f"used_in_training.{i}", name, ()) for i, name in enumerate(config.used_in_training)]


def load_gate(path: str | Path) -> Gate:
    """Read a gate and its suite. Either one never frozen, or changed since, raises ConfigError: criteria come before training."""
    file = Path(path)
    config, suite = read_gate(file)
    try:
        check_frozen(suite)
        check_settings_frozen(file, config.dump())
    except CheckFailed as error:
        raise ConfigError(error.message, hint=error.hint) from None
    locks = [read_lock(suite.path), read_lock(file)]
    for lock, what in zip(locks, (suite.path, file), strict=True):
        if lock is None:
            raise ConfigError(
                f"{what}: was never frozen, so nothing shows that it was written before training",
                hint=f"posttrain suite freeze {file}, before the next training",
            )
    times = [str(lock["frozen_at"]) for lock in locks if lock]
    return Gate(config, file, suite, suite_frozen_at=times[0], frozen_at=times[1])
