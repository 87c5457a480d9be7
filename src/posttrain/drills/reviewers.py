"""18: one of four reviewers follows another rubric than the rest."""

import random
from pathlib import Path

from posttrain.config.files import write_json
from posttrain.drills.harness import Found, drill
from posttrain.drills.yes_no import BAD, GOOD, question, read_run
from posttrain.feedback import label_quality
from posttrain.records import Choice, Comparison, Judgement, Message

_ERROR_RATE = 0.1
_REVIEWERS = ("ann", "ben", "cem", "dora")


@drill(
    "uncalibrated-reviewers",
    number=18,
    fault="one of four reviewers takes the longer answer whatever it says",
    expects=r"a reviewer judges otherwise than the rest: dora \(",
)
def uncalibrated_reviewers(folder: Path, faulty: bool) -> Found:
    """The label report of a recipe, over 200 comparisons that four reviewers judged with one error in ten."""
    draw = random.Random(5)
    comparisons = []
    for number in range(200):
        good_first, padded = draw.random() < 0.5, draw.random() < 0.5
        answers = (
            [GOOD, BAD + " That is all there is to say about it."] if padded else [GOOD + " That is all there is to say about it.", BAD]
        )
        sides = answers if good_first else answers[::-1]
        better: Choice = "a" if good_first else "b"
        longer: Choice = "a" if len(sides[0]) > len(sides[1]) else "b"
        judgements = []
        for reviewer in _REVIEWERS:
            wanted = longer if faulty and reviewer == "dora" else better
            other: Choice = "b" if wanted == "a" else "a"
            judgements.append(Judgement(reviewer, other if draw.random() < _ERROR_RATE else wanted, "1.0"))
        turns = [(Message("assistant", text),) for text in sides]
        comparisons.append(Comparison((Message("user", question(number)),), turns[0], turns[1], tuple(judgements)))
    write_json(folder / "run" / "labels.json", {"made": {"quality": label_quality(comparisons).to_dict()}})
    return read_run(folder, "dora agrees", "ann agrees")
