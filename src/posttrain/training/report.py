"""What a run says while it goes and when it is done."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class StepReport:
    """One optimiser step. Everything but the last three fields is the same in every repetition of the run."""

    step: int
    """Steps done, this one included."""
    num_steps: int
    epoch: float
    loss: float
    """Loss per counted term (a token for SFT)."""
    count: int
    """Counted terms of the step, over all workers."""
    grad_norm: float
    """Global L2 norm of the gradient of the mean loss, before clipping."""
    learning_rate: float
    packed_tokens: int
    """Tokens computed: shared prefixes once."""
    logical_tokens: int
    """Tokens of all sequences."""
    metrics: dict[str, float] = field(default_factory=dict)
    """The objective's metrics, each divided by ``count``."""
    evaluations: dict[str, float] = field(default_factory=dict)
    """Results of the evaluations that were due at this step, as ``name/metric``."""
    seconds: float = 0.0
    tokens_per_second: float = 0.0
    """Logical tokens a second."""
    eta_seconds: float = 0.0
    """Time left, from the mean of the steps of this process."""

    def history(self) -> dict[str, Any]:
        """The repeatable fields, as kept in checkpoints."""
        timed = ("seconds", "tokens_per_second", "eta_seconds")
        return {name: value for name, value in asdict(self).items() if name not in timed}

    def numbers(self) -> dict[str, float]:
        """All numbers, flat, as a logger takes them."""
        plain = {name: float(value) for name, value in asdict(self).items() if isinstance(value, int | float)}
        return plain | self.metrics | self.evaluations


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A callable handed to the loop: run after every ``every_steps`` steps and after the last; returns numbers by name."""

    name: str
    every_steps: int
    run: Callable[[Any], dict[str, float]]


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A finished run. ``history`` has one entry a step (``StepReport.history``), those before a resume included."""

    num_steps: int
    resumed_from: int
    history: list[dict[str, Any]]
    seconds: float

    @property
    def final_loss(self) -> float:
        """Loss of the last step."""
        return float(self.history[-1]["loss"])
