"""What every training stage takes and returns, and the register of stages a recipe chooses from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from posttrain.config import Config, Registry, parse
from posttrain.records import Demonstration, Record


class Progress(Protocol):
    """Where a stage tells what it does: a terminal, a recipe's display, or nowhere."""

    def advance(self, done: int, total: int, note: str = "") -> None:
        """So many of so many steps are done."""

    def say(self, text: str) -> None:
        """One line for the reader."""


class Quiet:
    """Progress that nobody looks at."""

    def advance(self, done: int, total: int, note: str = "") -> None:
        """Say nothing."""

    def say(self, text: str) -> None:
        """Say nothing."""


@dataclass(frozen=True, slots=True)
class StageResult:
    """model: the folder to load, the start model's own when ``adapter`` is set. id: in the lineage, empty without one.

    metrics: plain numbers (loss, tokens, seconds, rows dropped). history: one entry a step.
    """

    model: Path
    adapter: Path | None
    metrics: Mapping[str, float]
    history: Sequence[Mapping[str, Any]] = field(default=(), repr=False)
    id: str = ""


@dataclass(frozen=True, slots=True)
class Stage:
    """A training method: its settings class, the function that runs it, and what kind of model comes out.

    ``run(config, model_path, run_dir, *, lineage, parents, progress, logger) -> StageResult``. ``records``: the kinds of row its data may
    hold. ``files``: settings, besides ``data``, that name files (or map names to them), by dotted key. ``models``: settings that name a
    reward model; a recipe may put the name of an earlier stage there.
    """

    config: type[Config]
    run: Callable[..., StageResult]
    makes: Literal["policy", "reward_model"] = "policy"
    records: tuple[type[Record], ...] = (Demonstration,)
    files: tuple[str, ...] = ()
    models: tuple[str, ...] = ()

    def parse(self, settings: Mapping[str, Any], *, where: str) -> Config:
        """Validate a recipe's settings; ConfigError names every problem."""
        return parse(self.config, dict(settings), where=where)


STAGES: Registry[Stage] = Registry("stage")
"""Stages by the name a recipe uses."""
