"""Tiny preference runs, for tests that start, kill and compare real processes.

As a program: ``python tiny_preference.py MODE OUT`` prints one JSON line. MODE ``kto`` trains KTO to the end in float64 (under torchrun:
one of its processes); ``killed`` runs the preference stage in child processes that are killed with SIGKILL, until one finishes.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
from tiny_run import RECORD, VOCABULARY, build_policy, settings_for

from posttrain.config import parse
from posttrain.models import write_tiny_model
from posttrain.objectives import objective_settings
from posttrain.records import TokenSequence
from posttrain.stages import PreferenceConfig, run_preference
from posttrain.stages.pairs import mismatched
from posttrain.stages.preference_loss import MismatchedDrift, PreferenceLoss, add_reference
from posttrain.training import StepLoss, TrainingItem, open_world, reference_logprobs, train

ROWS = [
    {"prompt": f"Book {book} has red and blue pages. Number {number}?", "chosen": f"Page {number} is red.", "rejected": "I do not know."}
    for book in range(4)
    for number in range(4)
]


def build_pairs(count=8):
    """Pairs that share a prompt of 20 to 30 tokens; answers of different lengths."""
    draw = np.random.default_rng(11)
    items = []
    for index in range(count):
        prompt = draw.integers(1, VOCABULARY, draw.integers(20, 30))
        answers = [draw.integers(1, VOCABULARY, draw.integers(3, 12)) for _ in range(2)]
        rows = tuple(
            TokenSequence(np.concatenate((prompt, answer)).astype(np.int32), np.arange(len(prompt) + len(answer)) >= len(prompt), index)
            for answer in answers
        )
        lengths = {f"{side}_lengths": torch.tensor([row.num_supervised]) for side, row in zip(("chosen", "rejected"), rows, strict=True)}
        refs = {f"ref_{side}_logps": torch.tensor([float(draw.uniform(-40, -10))]) for side in ("chosen", "rejected")}
        items.append(TrainingItem(rows, {"probabilities": torch.tensor([draw.uniform(0.6, 1.0)]), **lengths, **refs}))
    return items


def build_labels():
    """17 labelled answers, so that steps of 5 end with one of 2; some share a prompt."""
    rows = [row for item in build_pairs(9) for row in item.sequences][:17]
    return [TrainingItem((row,), {"labels": torch.tensor([i % 3 > 0]), "positions": torch.tensor([i])}) for i, row in enumerate(rows)]


def run_kto(out, *, dtype=torch.float64):
    policy, items = build_policy(dtype=dtype), build_labels()
    sequences = [item.sequences[0] for item in items]
    with open_world() as world:
        items = add_reference(
            items, reference_logprobs(policy, sequences, out / "answers", contract="c", max_tokens=90, world=world).sums()
        )
        foreign = mismatched(sequences, limit=None)
        held = [row for row in foreign if row is not None]
        ref = reference_logprobs(policy, held, out / "mismatched", contract="c", max_tokens=90, world=world).sums()
        drift = MismatchedDrift(foreign, ref, max_tokens=90)
        loss = StepLoss(PreferenceLoss(objective_settings("kto")(beta=0.5), drift=drift), drift.before_step)
        settings = settings_for(sequences_per_step=5, learning_rate=3e-3, max_tokens_per_microbatch=80, checkpoint_every_steps=100)
        return train(policy, items, loss, settings, run_dir=out / "run", contract_record=RECORD)


def run_stage(folder, out):
    """DPO with LoRA on a tiny model, watched every third step."""
    settings = {
        "data": str(folder / "rows.jsonl"),
        "lora": {"rank": 4},
        "watch": {"every_steps": 3, "pairs": 4, "samples": 2, "max_new_tokens": 6},
        "training": {"learning_rate": 5e-3, "epochs": 3, "sequences_per_step": 4, "checkpoint_every_steps": 1},
    }
    return run_preference(parse(PreferenceConfig, settings, where="test"), folder / "model", out)


def write_inputs(folder):
    write_tiny_model(folder / "model", [text for row in ROWS for text in row.values()], seed=1, vocab_size=300, hidden=32)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "rows.jsonl.card.yaml").write_text("source: made here\nlicence: Apache-2.0\nconsent: made data\nprovenance: by hand\n")


def run_killed(folder, out):
    """Kill children in the reference pass and after 2 and 7 checkpoints; the one after that finishes."""
    import peft  # noqa: F401  (here, so that no child has to)

    reached = []
    for steps in (0, 2, 7, None):
        child = os.fork()
        if child == 0:
            torch.set_num_threads(1)  # here, before several loader threads find the parent's pool gone, all at once
            run_stage(folder, out)
            os._exit(0)
        if steps is not None:
            _wait(out, steps)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) != (0 if steps is None else -signal.SIGKILL):
            sys.exit("the child ended by itself")
        reached.append(_steps(out))
    return reached


def _steps(out):
    return max((int(folder.name[5:]) for folder in (out / "checkpoints").glob("step-*")), default=0)


def _wait(out, steps):
    """Until the reference pass has begun (0) or that many steps are kept."""
    until = time.monotonic() + 60
    while time.monotonic() < until and not (_steps(out) >= steps if steps else (out / "reference" / "answers").exists()):
        time.sleep(0.002)


def main():
    mode, out = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    if mode == "killed":
        write_inputs(out)
        reached = run_killed(out, out / "killed")
        run_stage(out, out / "straight")
        answer = {"reached": reached}
    else:
        result = run_kto(out)
        answer = {"losses": [entry["loss"] for entry in result.history], "kl": [entry["metrics"]["kl"] for entry in result.history]}
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(answer))


if __name__ == "__main__":
    main()
