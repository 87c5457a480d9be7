"""29: pairs of answers that this model would hardly ever write."""

from pathlib import Path

from posttrain.drills.harness import Found, drill
from posttrain.drills.yes_no import good_pairs, prefer, question, read_run, start_model

_FOREIGN = ("The moon of sand hums seven quiet tunes.", "Glass rivers fold under purple ladders.")


@drill(
    "stale-pairs",
    number=29,
    fault="the pairs were written by another model",
    expects=r"not what this model would write: .*starting policy gives the pairs chosen -[\d.]+.* and its own samples",
)
def stale_pairs(folder: Path, faulty: bool) -> Found:
    """Before the first update the stage compares how likely the pairs are with how likely the policy's own samples are."""
    foreign = [(question(number), *_FOREIGN) for number in range(148, 180)]
    prefer(folder, start_model(folder), foreign if faulty else good_pairs(148, 32), ())
    return read_run(folder, "start gap", "start sampled")
