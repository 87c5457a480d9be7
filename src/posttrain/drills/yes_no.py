"""A start model that answers questions in two ways, each half the time, and the preference stage run on it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.config import parse
from posttrain.drills.harness import Found
from posttrain.drills.setup import PRECISION, write_rows
from posttrain.models import write_tiny_model
from posttrain.release.levers import diagnose
from posttrain.stages import STAGES, SftConfig, StageResult, run_sft

GOOD, BAD = "Yes, it is one.", "No, it is not."
Pair = tuple[str, str, str]


def question(number: int) -> str:
    """One of many questions of one form."""
    return f"Is {number} a number?"


def start_model(folder: Path, *, others: Sequence[str] = (), demonstrations: Sequence[tuple[str, str]] = ()) -> Path:
    """A tiny model fine-tuned to answer either way equally often, or as the (prompt, answer) ``demonstrations`` say.

    Its tokenizer also knows ``others``. Both twins of a drill start from the same one, made by whichever runs first.
    """
    shared = folder.parent
    if (shared / "sft" / "model").is_dir():
        return shared / "sft" / "model"
    shown = demonstrations or [(question(number), (GOOD, BAD)[number % 2]) for number in range(100, 148)]
    texts = [text for pair in shown for text in pair] + list(others) * 10
    base = write_tiny_model(shared / "base", texts, seed=1, vocab_size=320, hidden=32)
    data = write_rows(shared / "demonstrations.jsonl", [conversation(*pair) for pair in shown])
    training = {"learning_rate": 1e-2, "max_steps": 60, "sequences_per_step": 24, "seed": 1, "checkpoint_every_steps": 1000}
    settings = PRECISION | {"data": str(data), "training": training}
    return run_sft(parse(SftConfig, settings, where="drill"), base, shared / "sft").model


def conversation(asked: str, answered: str) -> dict[str, Any]:
    """A demonstration."""
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]}


def pair_rows(pairs: Sequence[Pair]) -> list[dict[str, str]]:
    """(prompt, chosen, rejected) as rows of a preference file."""
    return [{"prompt": prompt, "chosen": chosen, "rejected": rejected} for prompt, chosen, rejected in pairs]


def good_pairs(first: int, count: int) -> list[Pair]:
    """Pairs of one rule, over ``count`` questions."""
    return [(question(number), GOOD, BAD) for number in range(first, first + count)]


def prefer(folder: Path, model: Path, pairs: Sequence[Pair], held_out: Sequence[Pair], **changes: Any) -> None:
    """The preference stage on ``pairs``: four passes of dpo with its usual beta, watched on held-out pairs and fresh samples."""
    files = {
        name: str(write_rows(folder / f"{name}.jsonl", pair_rows(rows))) for name, rows in (("data", pairs), ("held_out", held_out)) if rows
    }
    training = {"learning_rate": 4e-4, "epochs": 4, "sequences_per_step": 8, "seed": 2, "checkpoint_every_steps": 1000}
    settings = {
        **files,
        "objective": {"name": "dpo", "beta": 0.1},
        "watch": {"every_steps": 8, "samples": 8, "max_new_tokens": 16},
        **changes,
        "training": training | changes.get("training", {}),
    }
    run_stage("preference", folder, model, settings)


def run_stage(kind: str, folder: Path, model: Path, settings: Mapping[str, Any]) -> StageResult:
    """A stage as a recipe runs it, in ``folder/run``."""
    stage = STAGES.get(kind)
    return stage.run(stage.parse(PRECISION | dict(settings), where="drill"), model, folder / "run")


def read_run(folder: Path, *names: str) -> Found:
    """What ``posttrain diagnose`` says of the run, and the named figures from the files it reads."""
    findings = diagnose(folder / "run").findings
    text = "\n".join(f"{finding.failure}: {finding.seen}" for finding in findings)
    numbers = _numbers(folder / "run")
    return Found(text, {name: numbers[name] for name in names if name in numbers})


def _numbers(run: Path) -> dict[str, float]:
    found: dict[str, float] = {}
    for file in sorted(run.glob("*.json")):
        data = json.loads(file.read_text(encoding="utf-8"))
        if file.name == "result.json":
            last = data["history"][-1]
            kls = [entry["kl"] for entry in (*data["history"], {"kl": data["metrics"].get("last_kl")}) if entry.get("kl") is not None]
            found |= {"highest kl": max(kls)} if kls else {}
            found |= (
                data["metrics"] | last.get("evaluations", {}) | {f"start {name}": value for name, value in data.get("start", {}).items()}
            )
        elif file.name == "labels.json":
            found |= {f"{one['name']} agrees": one["agreement"] for entry in data.values() for one in entry["quality"]["annotators"]}
        elif file.name == "evaluation.json":
            found |= {f"{one['name']} probe": one["shift"]["value"] for one in data["probes"]}
    return found
