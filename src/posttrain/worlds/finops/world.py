"""The financial-operations world: tasks by (split, seed, number), and the environments that open them again."""

import functools
import json
import random
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic_core import to_jsonable_python

from posttrain.config import Config, content_hash, parse
from posttrain.errors import DataError
from posttrain.records import Message, ToolCall
from posttrain.tools import Caller
from posttrain.worlds.base import Counterexample, WorldTask, worlds
from posttrain.worlds.finops.company import build_database
from posttrain.worlds.finops.entities import check_split
from posttrain.worlds.finops.environment import FinopsEnvironment
from posttrain.worlds.finops.expected import possible_answer
from posttrain.worlds.finops.scene import RIGHTS, STYLES, Impossible, Plan, Scene, Wrong, kinds
from posttrain.worlds.finops.signatures import allowed

TASKS_A_WORLD = 8
"""One caller asks them all, under one system prompt and one list of tools: what they have in common is read once."""
TRIES = 40


class WorldState(Config):
    """``WorldTask.world`` of this world."""

    name: str = "finops"
    """The world."""
    split: str
    """train, validation or test."""
    seed: int
    """Of companies and tasks."""
    task: int
    """Number of the task under that split and seed."""
    size: int = 1
    """How large its companies are."""
    hash: str = ""
    """Of what was asked, offered, expected and done; empty: any task will do."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A task with everything hidden from the model."""

    task: WorldTask
    plan: Plan
    caller: Caller
    data: bytes
    offered: tuple[str, ...]


class FinopsWorld:
    """Implements :class:`posttrain.worlds.World`."""

    name = "finops"
    version = "1"
    licence = "Apache-2.0; attack texts MIT"
    notice = "attack texts: microsoft/BIPIA, Yi et al. 2023, MIT licence, copyright Microsoft Corporation"

    def tasks(self, split: str, *, seed: int, count: int, size: int = 1, only: Sequence[str] = ()) -> list[WorldTask]:
        """The first ``count`` tasks. ``only``: kinds or families to take, the numbers of the others are passed over."""
        check_split(split)
        unknown = [one for one in only if one not in kinds and one not in {kinds.get(name).family for name in kinds}]
        if unknown:
            raise DataError(f"unknown kind of task '{unknown[0]}'", hint=f"kinds: {', '.join(kinds)}")
        found: list[WorldTask] = []
        number = 0
        while len(found) < count:
            name = planned_kind(split, seed, number)
            if not only or name in only or kinds.get(name).family in only:
                task = _prepare(split, seed, number, size).task
                if not only or any(f"{what}:{one}" in task.slices for one in only for what in ("kind", "family")):
                    found.append(task)
            number += 1
        return found

    def task(self, split: str, *, seed: int, number: int, size: int = 1) -> WorldTask:
        """One task by its number."""
        return _prepare(split, seed, number, size).task

    def open(self, world: Mapping[str, Any]) -> FinopsEnvironment:
        """The state of a task at its beginning."""
        return _open(prepare(world))

    def counterexamples(self, task: WorldTask) -> list[Counterexample]:
        """The wrong trajectories of a task, each executed in a world of its own."""
        prepared = prepare(task.world)
        return [_counterexample(prepared, wrong) for wrong in prepared.plan.wrong]


def prepare(world: Mapping[str, Any]) -> Prepared:
    """The task that ``WorldTask.world`` names. Raises DataError when it is no longer the same."""
    state = parse(WorldState, dict(world), where="world")
    prepared = _prepare(state.split, state.seed, state.task, state.size)
    if state.hash and state.hash != prepared.task.world["hash"]:
        raise DataError(
            f"task {prepared.task.id} is another one than when it was written (hash {prepared.task.world['hash']}, not {state.hash})",
            hint="the world has changed since: write the file again with `posttrain world tasks`",
        )
    return prepared


CALLERS = tuple((tenant, role) for tenant in STYLES for role in RIGHTS)


@functools.lru_cache(256)
def _callers(split: str, seed: int, turn: int) -> tuple[tuple[str, str], ...]:
    pairs = list(CALLERS)
    random.Random(f"callers:{split}:{seed}:{turn}").shuffle(pairs)
    return tuple(pairs)


def caller_of(split: str, seed: int, world: int) -> tuple[str, str]:
    """(tenant, role) whose requests a world's tasks are; worlds take turns over all of them, in random order."""
    return _callers(split, seed, world // len(CALLERS))[world % len(CALLERS)]


def planned_kind(split: str, seed: int, number: int) -> str:
    """The kind a task is meant to be; another takes its place where the books hold nothing for it.

    A role's tasks hold each kind it asks as often as its weight says, in random order.
    """
    world, place = divmod(number, TASKS_A_WORLD)
    turn, at = divmod(world, len(CALLERS))
    role = caller_of(split, seed, world)[1]
    before = turn * len(STYLES) + sum(one == role for _, one in _callers(split, seed, turn)[:at])
    card = before * TASKS_A_WORLD + place
    length = len(_deck(role, "", 0, 0))
    return _deck(role, split, seed, card // length)[card % length]


@functools.lru_cache(256)
def _deck(role: str, split: str, seed: int, number: int) -> tuple[str, ...]:
    names = [name for name in kinds if role in kinds.get(name).roles for _ in range(kinds.get(name).weight)]
    random.Random(f"deck:{role}:{split}:{seed}:{number}").shuffle(names)
    return tuple(names)


@functools.lru_cache(512)
def _prepare(split: str, seed: int, number: int, size: int) -> Prepared:
    check_split(split)
    data = build_database(split, seed, number // TASKS_A_WORLD, size)
    connection = sqlite3.connect(":memory:")
    connection.deserialize(data)
    rng = random.Random(f"task:{split}:{seed}:{number}:{size}")
    caller = caller_of(split, seed, number // TASKS_A_WORLD)
    planned = planned_kind(split, seed, number)
    others = [name for name in kinds if caller[1] in kinds.get(name).roles and name != planned]
    for name in (planned, *rng.sample(others, len(others))):
        for _ in range(TRIES):
            scene = Scene(connection, rng, split, caller)
            try:
                plan = kinds.get(name).plan(scene)
            except Impossible:
                continue
            return _finish(split, seed, number, size, name, scene, plan, data)
    raise DataError(f"world {split}/{seed}/{number // TASKS_A_WORLD} holds nothing to ask about", hint="take another seed")


def _finish(split: str, seed: int, number: int, size: int, name: str, scene: Scene, plan: Plan, data: bytes) -> Prepared:
    """The task of a plan: what is offered, what is expected, and the expert's turns with real results."""
    offered = _offered(scene, plan, f"tools:{split}:{seed}:{number // TASKS_A_WORLD}")
    messages = (Message("system", scene.system_prompt), Message("user", plan.question))
    expected: dict[str, Any] = {"calls": possible_answer(plan)}
    if plan.facts:
        expected["answer"] = plan.facts
    if plan.state:
        expected["state"] = dict(plan.state)
    state = WorldState(split=split, seed=seed, task=number, size=size)
    task = WorldTask(
        id=f"finops-{split}-{seed}-{number}",
        messages=messages,
        tools=(),
        expected=expected,
        slices=(f"family:{kinds.get(name).family}", f"kind:{name}", f"tenant:{scene.tenant}"),
        group=f"finops-{split}-{seed}-w{number // TASKS_A_WORLD}",
        world={},
        demonstration=(),
    )
    prepared = Prepared(task, plan, scene.caller, data, offered)
    signatures, turns = _perform(prepared, plan.turns, plan.answer)
    seen = to_jsonable_python([messages, signatures, expected, turns])
    for message in (*seen[0], *seen[3]):
        del message["untrained"]  # of training, not of the task
    state = state.model_copy(update={"hash": content_hash(seen)[:16]})
    return replace(prepared, task=replace(task, tools=signatures, demonstration=turns, world=state.dump()))


def _offered(scene: Scene, plan: Plan, seed: str) -> tuple[str, ...]:
    """All tools of the role, and what the plan wants shown besides, in an order of the world's own."""
    offered = list(allowed(scene.role))
    random.Random(seed).shuffle(offered)
    needed = dict.fromkeys([*(call.name for turn in plan.turns for call in turn), *plan.tools])
    return (*offered, *(name for name in needed if name not in offered))


def _open(prepared: Prepared) -> FinopsEnvironment:
    return FinopsEnvironment(prepared.data, prepared.plan, prepared.offered, prepared.caller)


def _perform(
    prepared: Prepared, turns: Sequence[Sequence[ToolCall]], answer: str
) -> tuple[tuple[Mapping[str, Any], ...], tuple[Message, ...]]:
    """(signatures, turns) of somebody who makes these calls, with the world's results, and then answers."""
    environment = _open(prepared)
    messages: list[Message] = []
    for calls in turns:
        if not calls:
            continue
        first = sum(len(message.tool_calls) for message in messages) + 1
        named = [ToolCall(call.name, call.arguments, f"call_{first + place}") for place, call in enumerate(calls)]
        messages.append(Message("assistant", tool_calls=tuple(named)))
        for call, result in zip(named, environment.call_many(named), strict=True):
            messages.append(Message("tool", result.content, tool_call_id=call.id, name=call.name))
    signatures = environment.tools
    environment.close()
    return signatures, (*messages, Message("assistant", answer))


def _counterexample(prepared: Prepared, wrong: Wrong) -> Counterexample:
    """The expert's turns up to the one that goes wrong, that one, and the answer that follows."""
    plan = prepared.plan
    at = wrong.turn if wrong.turn >= 0 else len(plan.turns) + 1 + wrong.turn
    before = plan.turns[:at]
    _, turns = _perform(prepared, [*before, wrong.calls], wrong.answer or plan.answer)
    if "{" in wrong.answer:
        turns = (*turns[:-1], Message("assistant", wrong.answer.format_map(json.loads(turns[-2].content))))
    shared = sum(1 + len(calls) for calls in before)
    return Counterexample(wrong.kind, wrong.reason, turns, shared)


FINOPS = worlds.register("finops")(FinopsWorld())
