"""27: the training pairs are learned by heart."""

import random
from collections.abc import Sequence
from pathlib import Path

from posttrain.drills.harness import Found, drill
from posttrain.drills.yes_no import BAD, GOOD, Pair, good_pairs, prefer, read_run, start_model

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


def _unruly(words: Sequence[str]) -> list[Pair]:
    """Pairs whose better side is drawn by lot."""
    draw = random.Random(0)
    sides = [(GOOD, BAD) if draw.random() < 0.5 else (BAD, GOOD) for _ in words]
    return [(f"Is {word} a number?", *pair) for word, pair in zip(words, sides, strict=True)]


@drill(
    "preference-overfitting",
    number=27,
    fault="twelve pairs whose labels follow no rule, passed over sixty times",
    expects=r"learned by heart: .*of training pairs are ranked right and \d+% of held-out ones",
)
def preference_overfitting(folder: Path, faulty: bool) -> Found:
    """The watch ranks held-out pairs of the same kind beside the training pairs."""
    model = start_model(folder)
    if faulty:
        training = {"max_steps": 60, "sequences_per_step": 12, "learning_rate": 2e-3}
        watch = {"every_steps": 60, "samples": 0}
        prefer(
            folder,
            model,
            _unruly(_WORDS[:12]),
            _unruly(_WORDS)[12:],
            objective={"name": "dpo", "beta": 1.0},
            training=training,
            watch=watch,
        )
    else:
        prefer(folder, model, good_pairs(148, 32), good_pairs(200, 32))
    return read_run(folder, "watch/accuracy", "watch/held_out_accuracy")
