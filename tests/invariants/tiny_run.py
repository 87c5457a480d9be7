"""A tiny training run, for tests that start, kill and compare real processes.

As a program: ``python tiny_run.py MODE OUT`` prints one JSON line. MODE ``once`` trains to the end in float64 (under torchrun: one of its
processes); ``killed`` trains in child processes that are killed with SIGKILL at random moments, again and again, until one finishes.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from posttrain.models import LoraSettings, ModelSettings, Policy
from posttrain.models.lora import add_adapter
from posttrain.objectives import sft_loss
from posttrain.records import TokenSequence
from posttrain.training import TrainingSettings, train

VOCABULARY = 61
RECORD = {"hash": "chat:test"}
KILLED_EPOCHS = 6.0


def build_model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


def build_policy(*, dtype=torch.float32, lora=None):
    settings = ModelSettings(path="unused", lora=lora)
    model = build_model().to(dtype)
    return Policy(add_adapter(model, lora, seed=1) if lora else model, settings, compute_dtype=dtype)


def build_sequences(*, documents=6, questions=4):
    """Questions about documents: sequences of one document share 30 tokens, the last tokens are supervised."""
    draw = np.random.default_rng(5)
    rows = []
    for _ in range(documents):
        document = draw.integers(1, VOCABULARY, 30)
        for _ in range(questions):
            ids = np.concatenate((document, draw.integers(1, VOCABULARY, draw.integers(6, 14)))).astype(np.int32)
            rows.append(TokenSequence(ids, np.arange(len(ids)) >= 33, len(rows)))
    order = draw.permutation(len(rows))
    return [rows[i] for i in order]


def loss_fn(policy, forest, microbatch):
    return sft_loss(policy.logprobs(forest, uniform=True))


def settings_for(**changes):
    defaults = {"learning_rate": 1e-2, "epochs": 2.0, "sequences_per_step": 4, "checkpoint_every_steps": 1, "warmup_ratio": 0.2}
    return TrainingSettings(**{**defaults, **changes})


def digest(folder):
    """One hash over weights and optimiser of the newest checkpoint."""
    newest = max((folder / "checkpoints").glob("step-*"))
    files = [newest / name for name in ("weights.safetensors", "optimizer.safetensors")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def run_once(out, *, with_dropout=False, dtype=torch.float32, epochs=2.0, pause_seconds=0.0):
    """LoRA with dropout draws random numbers in every step; full training shares prefixes. Each microbatch may pause, to be killed in."""

    def paused_loss_fn(*arguments):
        time.sleep(pause_seconds)
        return loss_fn(*arguments)

    policy = build_policy(dtype=dtype, lora=LoraSettings(rank=4, dropout=0.3) if with_dropout else None)
    settings = settings_for(share_prefixes=not with_dropout, max_tokens_per_microbatch=100, epochs=epochs)
    return train(policy, build_sequences(), paused_loss_fn, settings, run_dir=out, contract_record=RECORD)


def run_killed(out, seed, *, with_dropout):
    """Kill children until one survives: six times, after 0 to 4 new checkpoints and a random moment; odd kills hit the writing of one.

    Their 36 steps pause a little, so that no child ends before its kill on a machine that is busy or quick.
    """
    import peft  # noqa: F401  (here, so that no child has to)

    draw, reached, kills_while_writing = random.Random(seed), [], 0
    while True:
        child = os.fork()
        if child == 0:
            run_once(out, with_dropout=with_dropout, epochs=KILLED_EPOCHS, pause_seconds=0.01 if len(reached) < 6 else 0.0)
            os._exit(0)
        if len(reached) < 6:
            if len(reached) % 2:
                _wait_for_writing(out, draw.randint(1, 4))
                _spin(draw.uniform(0, 0.002))
            else:
                _wait_for_writing(out, draw.randint(0, 4))
                _spin(draw.uniform(0, 0.1))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) == 0:
            return {"reached": reached, "kills_while_writing": kills_while_writing, "digest": digest(out)}
        if not os.WIFSIGNALED(status):
            sys.exit("the child failed")
        reached.append(max((int(folder.name[5:]) for folder in (out / "checkpoints").glob("step-*")), default=0))
        kills_while_writing += any((out / "checkpoints").glob(".step-*"))


def _wait_for_writing(out, times):
    """Return when the child has begun to write its ``times``-th checkpoint, or after 20 seconds."""
    seen, until = set((out / "checkpoints").glob(".step-*")), time.monotonic() + 20
    begun = 0
    while begun < times and time.monotonic() < until:
        new = set((out / "checkpoints").glob(".step-*")) - seen
        begun += len(new)
        seen |= new


def _spin(seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def main():
    mode, out = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    if mode == "killed":
        answer = {str(dropout): run_killed(out / str(dropout), seed, with_dropout=dropout) for seed, dropout in enumerate((False, True))}
    else:
        result = run_once(out, dtype=torch.float64)
        answer = {"losses": [entry["loss"] for entry in result.history]}
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(answer))


if __name__ == "__main__":
    main()
