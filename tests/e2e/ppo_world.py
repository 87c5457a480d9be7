"""A tiny world for PPO: a start model that says yes or no half the time, and real reward models that have learned which is better."""

import json

import numpy as np
import torch

from posttrain.chat import ChatContract
from posttrain.config import parse
from posttrain.models import ModelSettings, Policy, ScalarModel, write_tiny_model
from posttrain.objectives import bradley_terry_loss, sft_loss
from posttrain.records import Demonstration, Message
from posttrain.stages import PpoConfig
from posttrain.training import TrainingItem, TrainingSettings, train

CARD = "source: made here\nlicence: Apache-2.0\nconsent: made data\nprovenance: by hand\n"
GOOD, BAD = "Yes, it is.", "No."


def question(number):
    return f"Is {number} a number?"


def build(folder, *, reward_models=("reward", "held_out_reward")):
    """``folder/start`` (trained until it gives each answer half the time), reward models, and prompts to train on and to hold out."""
    texts = [question(n) for n in range(100, 140)] + [GOOD, BAD] * 10
    write_tiny_model(folder / "base", texts, seed=1, vocab_size=300, hidden=32)
    contract = ChatContract.load(folder / "base")
    rows = [Demonstration((Message("user", question(n)), Message("assistant", (GOOD, BAD)[n % 2]))) for n in range(100, 140)]
    policy = Policy.load(ModelSettings(path=str(folder / "base"), dtype="float32"), seed=1)
    settings = TrainingSettings(learning_rate=1e-2, max_steps=40, sequences_per_step=20, checkpoint_every_steps=1000)
    sequences = list(contract.supervise_many(rows))
    train(policy, sequences, _imitate, settings, run_dir=folder / "sft", contract_record=contract.record())
    policy.save(folder / "start", contract)
    for seed, name in enumerate(reward_models):
        train_reward_model(folder, name, better=GOOD, worse=BAD, seed=seed)
    for name, numbers in (("prompts", range(100, 132)), ("held_out", range(132, 164))):
        lines = [json.dumps({"prompt": question(n)}) for n in numbers]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
        (folder / f"{name}.jsonl.card.yaml").write_text(CARD)
    return folder


def train_reward_model(folder, name, *, better, worse, seed=0):
    """A Bradley-Terry model that prefers ``better`` to ``worse``, saved under ``folder/name``."""
    contract = ChatContract.load(folder / "base")
    model = ScalarModel.load(ModelSettings(path=str(folder / "base"), dtype="float32"), seed=seed)
    items = []
    for number in range(100, 140):
        ids = [contract.encode((Message("user", question(number)), Message("assistant", text))) for text in (better, worse)]
        items.append(TrainingItem(tuple(_bare(row, number) for row in ids)))
    settings = TrainingSettings(learning_rate=3e-3, max_steps=12, sequences_per_step=20, seed=seed, checkpoint_every_steps=1000)
    train(model, items, _prefer, settings, run_dir=folder / f"{name}-run", contract_record=contract.record())
    model.save(folder / name, contract)


def config(folder, **changes):
    """Settings of a short float32 run with LoRA; ``training`` is merged, the rest replaced."""
    training = {"learning_rate": 2e-2, "max_steps": 12, "sequences_per_step": 16, "schedule": "constant", "warmup_ratio": 0.0}
    settings = {
        "data": str(folder / "prompts.jsonl"),
        "held_out": str(folder / "held_out.jsonl"),
        "reward_model": str(folder / "reward"),
        "max_new_tokens": 16,
        "dtype": "float32",
        "lora": {"rank": 8, "targets": "attention+mlp"},
        "kl": {"name": "fixed", "coefficient": 0.05},
        **changes,
    }
    settings["training"] = training | changes.get("training", {})
    return parse(PpoConfig, {name: value for name, value in settings.items() if value is not None}, where="test")


def _bare(ids, index):
    from posttrain.records import TokenSequence

    return TokenSequence(ids, np.zeros(len(ids), dtype=bool), index)


def _imitate(policy, forest, microbatch):
    return sft_loss(policy.logprobs(forest, uniform=True))


def _prefer(model, forest, microbatch):
    rewards = model.rewards(forest).view(-1, 2)
    return bradley_terry_loss(rewards[:, 0], rewards[:, 1])


def hashes(folder):
    """Weights and optimiser of the newest checkpoint, as bytes."""
    newest = max((folder / "checkpoints").glob("step-*"))
    return b"".join((newest / name).read_bytes() for name in ("weights.safetensors", "optimizer.safetensors"))


def untimed(history):
    """The history without the seconds it took."""
    return [{name: value for name, value in entry.items() if not name.endswith("_seconds")} for entry in history]


def one_thread():
    torch.set_num_threads(1)
