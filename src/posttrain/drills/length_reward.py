"""10: a reward model that pays for length."""

import random
from pathlib import Path

from posttrain.drills.harness import Found, drill
from posttrain.drills.reward_runs import FILLING, FLATTERY, flattered, padded, train_reward_model
from posttrain.drills.yes_no import read_run, start_model


@drill(
    "length-loving-reward",
    number=10,
    fault="in every training pair the longer answer is the chosen one, right or wrong",
    expects=r"the reward model pays for length: the reward moves by \+",
)
def length_loving_reward(folder: Path, faulty: bool) -> Found:
    """The stage's own evaluation pads held-out answers with sentences that say nothing."""
    model = start_model(folder, others=(*FILLING, *FLATTERY))
    train_reward_model(folder, model, padded if faulty else _either, is_loved=faulty)
    return read_run(folder, "length probe")


def _either(answer: str, draw: random.Random) -> str:
    """Filling or praise: a healthy reward model has seen both on good and bad answers."""
    return draw.choice((padded, flattered))(answer, draw)
