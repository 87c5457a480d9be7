"""A tiny model and small preference files for the tests of the preference stage."""

import json

from posttrain.config import parse
from posttrain.stages import PreferenceConfig

CARD = "source: made here\nlicence: Apache-2.0\nconsent: made data\nprovenance: by hand\n"
COLOURS = ("red", "blue", "green", "white")
PAIRS = [
    {
        "prompt": f"Book {book} has red, blue, green and white pages. Colour number {number}?",
        "chosen": f"Page {number} of book {book} is {colour}.",
        "rejected": f"I do not know, it may be {COLOURS[(number + 1) % 4]} or not.",
    }
    for book in range(5)
    for number, colour in enumerate(COLOURS)
]
LABELS = [
    {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
    for position, row in enumerate(PAIRS)
    for side in (("chosen", "rejected") if position % 3 else ("chosen",))
]
TEXTS = [row[column] for row in PAIRS for column in row]


def write_rows(folder, rows, name="rows.jsonl", card=CARD):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if card:
        (folder / f"{name}.card.yaml").write_text(card)
    return str(path)


def configure(folder, rows=PAIRS, **changes):
    training = {"epochs": 2, "sequences_per_step": 6, "learning_rate": 2e-3, "max_tokens_per_microbatch": 300}
    settings = {"data": write_rows(folder, rows), "training": training, **changes}
    return parse(PreferenceConfig, settings, where="test")
