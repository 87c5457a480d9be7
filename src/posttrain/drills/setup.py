"""The small healthy run that drills start from: made rows with a card, a tiny model, and a fine-tuning stage."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.config import parse
from posttrain.models import write_tiny_model
from posttrain.stages import SftConfig, StageResult, run_sft

CARD = "source: made for a drill\nlicence: Apache-2.0\nconsent: made data, it describes no person\nprovenance: by hand\nsplit: train\n"
COLOURS = ("red", "blue", "green")
SYSTEM = "Answer in one word."
PRECISION: dict[str, Any] = {"dtype": "float32"}
"""Of every model of a drill, whatever the machine multiplies fastest: faults and thresholds are measured in it."""


def conversations() -> list[dict[str, Any]]:
    """Thirty-six rows of a task that a tiny model learns: the n-th colour of a list."""
    rows = []
    for book in range(12):
        for number in (1, 2, 3):
            question = f"Book {book}: red, blue, green. Colour {number}?"
            rows.append({"messages": [_turn("system", SYSTEM), _turn("user", question), _turn("assistant", COLOURS[number - 1])]})
    return rows


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]], *, card: str = CARD) -> Path:
    """JSON lines with a data card beside them."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    path.with_name(path.name + ".card.yaml").write_text(card, encoding="utf-8")
    return path


def tiny_model(folder: Path, texts: Sequence[str] = (), *, hidden: int = 32) -> Path:
    """A random two-layer model whose tokenizer knows the rows' words."""
    known = [turn["content"] for row in conversations() for turn in row["messages"]]
    return write_tiny_model(folder / "start", [*known, *texts], seed=1, vocab_size=400, hidden=hidden)


def fine_tune(folder: Path, model: Path, data: Path, *, epochs: float = 1.0) -> StageResult:
    """The supervised stage as a recipe runs it."""
    training = {"learning_rate": 5e-3, "epochs": epochs, "sequences_per_step": 12, "seed": 3}
    settings = PRECISION | {"data": str(data), "training": training}
    return run_sft(parse(SftConfig, settings, where="drill"), model, folder / "run")
