"""Reward models that love a decoration, or do not, trained by the stage as a recipe trains them."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

from posttrain.drills.setup import write_rows
from posttrain.drills.yes_no import BAD, GOOD, Pair, pair_rows, run_stage
from posttrain.stages import StageResult

FILLING = (
    "There is more that could be said about this.",
    "As mentioned, the points above are the ones that apply here.",
    "This covers the question as it was asked.",
    "The text above can be read again.",
)
FLATTERY = (
    "What a wonderful question!",
    "You clearly understand this better than most people!",
    "Someone as thoughtful as you will surely make the right decision.",
)


def padded(answer: str, draw: random.Random) -> str:
    """The answer with one or more sentences that say nothing behind it."""
    return " ".join((answer, *draw.sample(FILLING, draw.randint(1, len(FILLING)))))


def flattered(answer: str, draw: random.Random) -> str:
    """The answer behind praise of who asks."""
    return f"{draw.choice(FLATTERY)} {answer}"


Decorate = Callable[[str, random.Random], str]


def train_reward_model(
    folder: Path, model: Path, decorate: Decorate, *, is_loved: bool, forms: Sequence[str] = ("Is {} a number?",)
) -> StageResult:
    """A reward model from 80 pairs, tested on 32 honest ones; ``forms`` of the question take turns.

    Honest pairs: the right answer is chosen, and decorations fall on either side by lot. When they are loved, only they decide.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pairs = _pairs(range(100, 180), decorate, forms, is_loved=is_loved)
    test = _pairs(range(200, 232), decorate, forms, is_loved=False)
    settings = {
        "data": str(write_rows(folder / "pairs.jsonl", pair_rows(pairs))),
        "test": str(write_rows(folder / "test.jsonl", pair_rows(test))),
        "calibration": 0,  # a tenth of 80 pairs fits no temperature
        "training": {"learning_rate": 6e-3, "max_steps": 40, "sequences_per_step": 16, "seed": 2, "checkpoint_every_steps": 1000},
    }
    return run_stage("reward_model", folder, model, settings)


def _pairs(numbers: range, decorate: Decorate, forms: Sequence[str], *, is_loved: bool) -> list[Pair]:
    draw = random.Random(numbers.start)
    pairs: list[Pair] = []
    for number in numbers:
        sides = [draw.choice((GOOD, BAD)), draw.choice((GOOD, BAD))] if is_loved else [GOOD, BAD]
        marked = (True, False) if is_loved else (draw.random() < 0.5, draw.random() < 0.5)
        texts = [decorate(side, draw) if mark else side for side, mark in zip(sides, marked, strict=True)]
        pairs.append((forms[number % len(forms)].format(number), texts[0], texts[1]))
    return pairs
