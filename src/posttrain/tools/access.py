"""Who calls, and how much they may spend."""

from dataclasses import dataclass

from posttrain.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf tools are called. Set by the program, never by the model; ``subject`` names the person or service, if known."""

    role: str
    tenant: str
    subject: str = ""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a toolbox may spend in its life; None is no limit.

    ``max_calls`` counts every call asked for, refused ones too, so that an endless loop of wrong calls ends. ``max_seconds`` is wall clock
    spent waiting for tools. ``max_cost`` is the sum of ``Tool.cost`` over calls that ran, in whatever unit the costs are written.
    """

    max_calls: int | None = None
    max_seconds: float | None = None
    max_cost: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_calls", "max_seconds", "max_cost"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0):
                raise ConfigError(f"budget {name} is {value!r}", hint="give a number that is not negative, or None for no limit")


UNLIMITED = Budget()


@dataclass(slots=True)
class Spending:
    """What was spent so far: ``calls`` asked for, ``seconds`` waited, ``cost`` of the calls that ran."""

    calls: int = 0
    seconds: float = 0.0
    cost: float = 0.0

    def over(self, budget: Budget, cost: float) -> str:
        """Why one more call at ``cost`` does not fit, or ``""``. The call itself is already counted in :attr:`calls`."""
        if budget.max_calls is not None and self.calls > budget.max_calls:
            return f"all {budget.max_calls} calls are used"
        if budget.max_seconds is not None and self.seconds >= budget.max_seconds:
            return f"{self.seconds:.1f} of {budget.max_seconds:g} seconds are used"
        if budget.max_cost is not None and self.cost + cost > budget.max_cost + 1e-9:
            return f"{self.cost:g} of {budget.max_cost:g} is spent and this call costs {cost:g}"
        return ""

    def seconds_left(self, budget: Budget) -> float:
        """How long the next call may take, seconds; infinite without a limit."""
        return float("inf") if budget.max_seconds is None else max(0.0, budget.max_seconds - self.seconds)
