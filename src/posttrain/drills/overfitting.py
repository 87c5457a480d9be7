"""27: the training pairs are learned by heart."""

import random
from pathlib import Path

from posttrain.drills.harness import Found, drill
from posttrain.drills.yes_no import BAD, GOOD, Pair, prefer, read_run, start_model

_WORDS = (
    "apple",
    "river",
    "stone",
    "cloud",
    "horse",
    "candle",
    "window",
    "garden",
    "silver",
    "paper",
    "orange",
    "bridge",
    "winter",
    "pencil",
    "mirror",
    "forest",
    "island",
    "copper",
    "button",
    "carpet",
    "dragon",
    "engine",
    "feather",
    "guitar",
    "hammer",
    "jacket",
    "kettle",
    "ladder",
    "magnet",
    "needle",
    "oyster",
    "pillow",
    "rocket",
    "saddle",
    "temple",
    "valley",
    "wagon",
    "yellow",
    "zebra",
    "tiger",
)


def _pairs(by_lot: bool) -> list[Pair]:
    """One pair a word. Its better side is always the same one, or is drawn by lot: then no word says anything of another's."""
    draw = random.Random(0)
    sides = [(BAD, GOOD) if by_lot and draw.random() < 0.5 else (GOOD, BAD) for _ in _WORDS]
    return [(f"Is {word} a number?", *pair) for word, pair in zip(_WORDS, sides, strict=True)]


@drill(
    "preference-overfitting",
    number=27,
    fault="the better side of every pair is drawn by lot, and twelve such pairs are passed over sixty times",
    expects=r"learned by heart: .*of training pairs are ranked right and \d+% of held-out ones",
)
def preference_overfitting(folder: Path, faulty: bool) -> Found:
    """The watch ranks held-out pairs of the same kind beside the training pairs. The twins differ in their labels alone.

    orpo imitates the chosen answers, so that sixty passes make none of them less likely in either twin.
    """
    pairs = _pairs(by_lot=faulty)
    training = {"max_steps": 60, "sequences_per_step": 12, "learning_rate": 2e-3}
    objective, watch = {"name": "orpo"}, {"every_steps": 60, "samples": 0}
    prefer(folder, start_model(folder), pairs[:12], pairs[12:], objective=objective, training=training, watch=watch)
    return read_run(folder, "watch/accuracy", "watch/held_out_accuracy")
