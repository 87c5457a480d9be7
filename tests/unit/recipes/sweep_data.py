"""A tiny model, pairs and stage settings for the tests of a sweep."""

import json

from posttrain.models import write_tiny_model

CARD = "source: made here\nlicence: Apache-2.0\nconsent: made data\nprovenance: by hand\n"
COLOURS = ("red", "blue", "green", "white")
PAIRS = [
    {
        "prompt": f"Shelf {shelf} holds red, blue, green and white jars. Jar number {number}?",
        "chosen": f"Jar {number} on shelf {shelf} is {colour}.",
        "rejected": f"I cannot say, perhaps {COLOURS[(number + 1) % 4]}.",
    }
    for shelf in range(8)
    for number, colour in enumerate(COLOURS)
]
SETTINGS = """
data: {data}
objective: {{name: dpo}}
dtype: float32
training: {{epochs: 1, sequences_per_step: 6, max_tokens_per_microbatch: 300}}
"""


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path.with_name(f"{path.name}.card.yaml").write_text(CARD)
    return path


def write_project(folder, rows=PAIRS):
    """``folder/model``, ``folder/pairs.jsonl`` with its card, ``folder/dpo.yaml``."""
    texts = [row[column] for row in PAIRS for column in row]
    write_tiny_model(folder / "model", texts, seed=1, vocab_size=320, hidden=32)
    write_rows(folder / "pairs.jsonl", rows)
    (folder / "dpo.yaml").write_text(SETTINGS.format(data=folder / "pairs.jsonl"))
    return folder
