"""The data of ``recipes/tools.yaml``: trajectories and cases of the financial-operations world, joined with BFCL's.

``python -m posttrain.worlds.recipe_data``, run in the project's root folder, writes ``recipes/data/tools.jsonl.gz`` and
``suites/tools.jsonl`` from the world's train and test split and from the shipped ``tools-bfcl`` files (see ``posttrain.data.tool_sets``).
Numbers and lengths are chosen so that the recipe ends within 25 minutes on two cores.
"""

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from posttrain.data import record_to_row
from posttrain.data.finops import write_gzip
from posttrain.worlds.base import worlds
from posttrain.worlds.rows import case_rows, demonstrations

SEED = 17
WORLD = "finops"
NUM_TRAINING_TASKS, NUM_TEST_TASKS = 232, 64
NUM_TRAINING_ROWS, NUM_CASES = 88, {"simple": 16, "multiple": 10, "parallel": 8, "irrelevance": 12, "live_simple": 2}
"""Of BFCL."""
MAX_ROW_CHARACTERS, MAX_CASE_CHARACTERS = 1400, 1900
"""Longest BFCL row and case taken, as JSON: questions over many functions cost more than they teach a small model."""


def training_rows(bfcl: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Demonstrations of both sources as JSON objects; a world's tasks stay neighbours."""
    tasks = worlds.get(WORLD).tasks("train", seed=SEED, count=NUM_TRAINING_TASKS)
    return [*map(record_to_row, demonstrations(tasks)), *_short(bfcl, MAX_ROW_CHARACTERS)[:NUM_TRAINING_ROWS]]


def suite_rows(bfcl: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Cases of both sources as JSON objects, ``world`` or ``bfcl`` their first slice."""
    tasks = worlds.get(WORLD).tasks("test", seed=SEED, count=NUM_TEST_TASKS)
    found: list[Mapping[str, Any]] = [{**row, "slices": ["world", *_reported(row)]} for row in case_rows(tasks)]
    short = _short(bfcl, MAX_CASE_CHARACTERS)
    for name, count in NUM_CASES.items():
        found += [{**row, "slices": ["bfcl", name]} for row in [row for row in short if row["slices"] == [name]][:count]]
    return found


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
