"""Judges: a written constitution, both orders asked, held against people before their labels count."""

from posttrain.judges.calibration import Calibration, calibrate, check_floor, compare, human_choice, record
from posttrain.judges.constitution import Constitution, Floor, load_constitution
from posttrain.judges.labelling import calibration_lines, label_checked, record_labels, remembered
from posttrain.judges.pairwise import PairwiseJudge, Reply, Verdict, read_verdict

__all__ = [
    "Calibration",
    "Constitution",
    "Floor",
    "PairwiseJudge",
    "Reply",
    "Verdict",
    "calibrate",
    "calibration_lines",
    "check_floor",
    "compare",
    "human_choice",
    "label_checked",
    "load_constitution",
    "read_verdict",
    "record",
    "record_labels",
    "remembered",
]
