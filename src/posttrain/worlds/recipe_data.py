"""The data of ``recipes/tools.yaml``: trajectories and cases of the financial-operations world, joined with BFCL's.

``python -m posttrain.worlds.recipe_data``, run in the project's root folder, writes ``recipes/data/tools.jsonl.gz`` and
``suites/tools.jsonl`` from the world's train and test split and from the shipped ``tools-bfcl`` files (see ``posttrain.data.tool_sets``).
Numbers and lengths are chosen so that the recipe ends within 25 minutes on two cores.
"""

import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.config import content_hash
from posttrain.data import record_to_row
from posttrain.data.finops import write_gzip
from posttrain.worlds.base import WorldTask, worlds
from posttrain.worlds.finops.world import TASKS_A_WORLD
from posttrain.worlds.rows import case_rows, demonstrations

SEED = 17
WORLD = "finops"
NUM_TRAINING_TASKS = 240
FURTHER, NUM_FURTHER = ("refusal", "unauthorised", "transfer", "entry_in_budget"), 84
"""Tasks of other training worlds: what a caller may not do, which is rarer than what he may, and the same request where he may."""
NUM_TEST_WORLDS, ACTIONS_OF_A_TEST_WORLD, TASKS_OF_A_TEST_WORLD = 24, 2, 3
"""Intervals treat a world as one draw: many worlds say more than many tasks. Two of the three tasks change the books where the caller
may: the end state says little of the others."""
ROWS_WITH_CALLS, ROWS_WITHOUT = 88, 56
"""Training rows of BFCL. Those where no function fits teach when not to call, which few rows of the world do."""
NUM_CASES = {"simple": 16, "multiple": 10, "parallel": 8, "irrelevance": 12, "live_simple": 2}
"""Of BFCL, by category."""
MAX_ROW_CHARACTERS, MAX_CASE_CHARACTERS = 1400, 1900
"""Longest BFCL row and case taken, as JSON: questions over many functions cost more than they teach a small model."""


def training_rows(bfcl: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Demonstrations of both sources as JSON objects; a world's tasks stay neighbours."""
    short = _short(bfcl, MAX_ROW_CHARACTERS)
    with_calls = [row for row in short if _calls(row)][:ROWS_WITH_CALLS]
    without = [row for row in short if not _calls(row)][:ROWS_WITHOUT]
    mixed = sorted([*with_calls, *without], key=lambda row: content_hash(row["id"]))
    return [*map(record_to_row, demonstrations(_training_tasks())), *mixed]


def _training_tasks() -> list[WorldTask]:
    world = worlds.get(WORLD)
    first = world.tasks("train", seed=SEED, count=NUM_TRAINING_TASKS)
    known = sum(not {f"family:{name}", f"kind:{name}"}.isdisjoint(task.slices) for task in first for name in FURTHER)
    return [*first, *world.tasks("train", seed=SEED, count=known + NUM_FURTHER, only=FURTHER)[known:]]


def suite_rows(bfcl: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Cases of both sources as JSON objects, ``world`` or ``bfcl`` their first slice."""
    every = worlds.get(WORLD).tasks("test", seed=SEED, count=NUM_TEST_WORLDS * TASKS_A_WORLD)
    tasks = [task for first in range(0, len(every), TASKS_A_WORLD) for task in _some(every[first : first + TASKS_A_WORLD])]
    found: list[Mapping[str, Any]] = [{**row, "slices": ["world", *_reported(row)]} for row in case_rows(tasks)]
    short = _short(bfcl, MAX_CASE_CHARACTERS)
    for name, count in NUM_CASES.items():
        found += [{**row, "slices": ["bfcl", name]} for row in [row for row in short if row["slices"] == [name]][:count]]
    return found


def _calls(row: Mapping[str, Any]) -> bool:
    return any(turn.get("tool_calls") for turn in row["messages"])


def _some(world: Sequence[WorldTask]) -> list[WorldTask]:
    """Tasks of one world in their order: the first that change its books, and the first others."""
    acting = [number for number, task in enumerate(world) if task.expected.get("state")][:ACTIONS_OF_A_TEST_WORLD]
    others = [number for number, task in enumerate(world) if not task.expected.get("state")]
    return [world[number] for number in sorted([*acting, *others[: TASKS_OF_A_TEST_WORLD - len(acting)]])]


def _short(rows: Iterable[Mapping[str, Any]], most: int) -> list[Mapping[str, Any]]:
    return [row for row in rows if len(json.dumps(row)) <= most]


def _reported(row: Mapping[str, Any]) -> list[str]:
    """``action`` where the books have to change, family and tenant; kinds of task are too many to report."""
    acts = ["action"] if row["expected"].get("state") else []
    return acts + [name for name in row["slices"] if not name.startswith("kind:")]


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def _text(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows)


def main() -> None:
    """Write both files."""
    bfcl = gzip.decompress(Path("recipes/data/tools-bfcl.jsonl.gz").read_bytes()).decode("utf-8")
    write_gzip(Path("recipes/data/tools.jsonl.gz"), _text(training_rows(_lines(bfcl))))
    cases = Path("suites/tools-bfcl.jsonl").read_text(encoding="utf-8")
    Path("suites/tools.jsonl").write_text(_text(suite_rows(_lines(cases))), encoding="utf-8")


if __name__ == "__main__":
    main()
