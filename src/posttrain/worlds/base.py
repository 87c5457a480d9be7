"""What a world is: tasks with end states that can be checked, and environments to act in. Worlds register here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from posttrain.config import Registry
from posttrain.errors import DataError
from posttrain.records import Message, ToolCall, ToolResult

SPLITS = ("train", "validation", "test")
"""Worlds of different splits share no entity."""


@dataclass(frozen=True, slots=True)
class WorldTask:
    """One task. ``messages`` end with the user's request; ``tools`` are the signatures offered.

    ``expected``: ``calls`` in BFCL's possible-answer form (``[]``: no call is needed; ``metrics.bfcl.ANY_VALUE``: any
    value does), ``answer`` (``numbers``, ``contains``) and ``state``, the change of the database. ``world`` is plain JSON that opens
    exactly this state again. ``demonstration``: the expert's turns with real results, ending in the answer.
    """

    id: str
    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...]
    expected: Mapping[str, Any]
    slices: tuple[str, ...]
    group: str
    world: Mapping[str, Any]
    demonstration: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Counterexample:
    """A trajectory that is legal in form and wrong. ``turns`` follow the task's messages; the first ``shared`` are the expert's own.

    ``kind`` names the fault ("wrong_account", "future_date", ...), ``reason`` says it in a sentence.
    """

    kind: str
    reason: str
    turns: tuple[Message, ...]
    shared: int = 0


class Environment(Protocol):
    """One episode: a fresh state and the tools to act in it."""

    @property
    def tools(self) -> tuple[Mapping[str, Any], ...]:
        """Signatures of the tools offered."""
        ...

    def call_many(self, calls: Sequence[ToolCall]) -> list[ToolResult]:
        """Execute the calls of one turn, in order of their results; never raises for what a model can cause."""
        ...

    def outcome(self, messages: Sequence[Message]) -> dict[str, Any]:
        """What became of the task, plain JSON. ``messages``: the turns after the prompt."""
        ...

    def close(self) -> None:
        """Let the state go."""
        ...


class World(Protocol):
    """A family of tasks. Everything is a function of (split, seed, number)."""

    name: str
    version: str
    licence: str
    """Of the data it makes."""
    notice: str
    """The attribution that licence asks for."""

    def tasks(self, split: str, *, seed: int, count: int, size: int = 1, only: Sequence[str] = ()) -> list[WorldTask]:
        """The first ``count`` tasks of a split under a seed; more tasks never change the earlier ones. ``only``: kinds or families."""
        ...

    def task(self, split: str, *, seed: int, number: int, size: int = 1) -> WorldTask:
        """One task by its number."""
        ...

    def open(self, world: Mapping[str, Any]) -> Environment:
        """The state of a task at its beginning, from ``WorldTask.world``."""
        ...

    def counterexamples(self, task: WorldTask) -> list[Counterexample]:
        """Wrong trajectories for a task, executed in the world."""
        ...


worlds: Registry[World] = Registry("world")


def open_world(world: Mapping[str, Any]) -> Environment:
    """The environment that a case's ``metadata["world"]`` describes."""
    name = world.get("name")
    if not isinstance(name, str):
        raise DataError(
            f"a world has no name (got {dict(world)!r})", hint='give {"name": "finops", "split": ..., "seed": ..., "task": ...}'
        )
    return worlds.get(name).open(world)
