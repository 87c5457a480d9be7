"""Preference files a tiny model can learn, and the settings it learns them with."""

import json
import random

from posttrain.config import parse
from posttrain.records import Message, PreferencePair
from posttrain.stages import RewardModelConfig

CARD = "source: made here\nlicence: Apache-2.0\nconsent: made data\nprovenance: by hand\n"
THINGS = [colour + thing for colour in ("red", "blue", "old", "new") for thing in ("cup", "box", "hat", "key")]


def polite_rows(count, *, seed=0):
    """The polite of two answers is better; their length says nothing."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        price = draw.randint(1, 99)
        sides = [f"It costs {price} coins, thank you.", f"It costs {price} coins, go away."]
        if draw.random() < 0.5:
            sides = [f"Well. {side}" for side in sides]
        rows.append({"prompt": f"What does {draw.choice(THINGS)} {seed}-{number} cost?", "chosen": sides[0], "rejected": sides[1]})
    return rows


def long_rows(count, *, seed=0):
    """The longer of two answers is better, whatever it says."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        sentences = [f"{draw.choice(THINGS)} is here." for _ in range(draw.randint(3, 6))]
        short = draw.randint(1, len(sentences) - 1)
        prompt = f"What is at place {seed}-{number}?"
        rows.append({"prompt": prompt, "chosen": " ".join(sentences), "rejected": " ".join(sentences[:short])})
    return rows


def swapped(rows):
    """The same pairs with every label turned round."""
    return [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]


TEXTS = [text for row in [*polite_rows(100), *long_rows(50)] for text in row.values()]


def write_rows(folder, rows, name="pairs.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / f"{name}.card.yaml").write_text(CARD)
    return str(path)


def pairs_of(rows):
    return [
        PreferencePair((Message("user", row["prompt"]),), (Message("assistant", row["chosen"]),), (Message("assistant", row["rejected"]),))
        for row in rows
    ]


def configure(folder, rows, **changes):
    training = {"epochs": 3, "sequences_per_step": 16, "learning_rate": 3e-3, **changes.pop("training", {})}
    settings = {"data": write_rows(folder, rows), "dtype": "float32", "training": training, **changes}
    return parse(RewardModelConfig, settings, where="test")
