"""Small worlds with tools, tasks and end states that can be checked."""

from posttrain.worlds import finops
from posttrain.worlds.answers import missing_facts
from posttrain.worlds.base import SPLITS, Counterexample, Environment, World, WorldTask, open_world, worlds
from posttrain.worlds.rows import case_rows, demonstrations, preference_pairs, write_tasks

__all__ = [
    "SPLITS",
    "Counterexample",
    "Environment",
    "World",
    "WorldTask",
    "case_rows",
    "demonstrations",
    "finops",
    "missing_facts",
    "open_world",
    "preference_pairs",
    "worlds",
    "write_tasks",
]
