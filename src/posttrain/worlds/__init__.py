"""Small worlds with tools, tasks and end states that can be checked."""

from posttrain.worlds import finops
from posttrain.worlds.base import SPLITS, Counterexample, Environment, World, WorldTask, open_world, worlds

__all__ = ["SPLITS", "Counterexample", "Environment", "World", "WorldTask", "finops", "open_world", "worlds"]
