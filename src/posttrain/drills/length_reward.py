"""10: a reward model that pays for length."""

from pathlib import Path

from posttrain.drills.harness import Found, drill
from posttrain.drills.reward_runs import FILLING, padded, train_reward_model
from posttrain.drills.yes_no import read_run, start_model


@drill(
    "length-loving-reward",
    number=10,
    fault="in every training pair the longer answer is the chosen one, right or wrong",
    expects=r"the reward model pays for length: the reward moves by \+",
)
def length_loving_reward(folder: Path, faulty: bool) -> Found:
    """The stage's own evaluation pads held-out answers with sentences that say nothing."""
    train_reward_model(folder, start_model(folder, others=FILLING), padded, is_loved=faulty)
    return read_run(folder, "length probe")
