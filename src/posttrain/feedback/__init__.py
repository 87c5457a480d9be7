"""What people and judges said: label quality, soft labels, adjudication."""

from posttrain.feedback.annotators import Annotator, Finding
from posttrain.feedback.effects import Effects, label_effects
from posttrain.feedback.labels import LabelTable, check_one_rubric, label_table, of_rubric
from posttrain.feedback.pairs import METHODS, Method, PairSet, build_pairs, to_pairs
from posttrain.feedback.quality import LabelReport, PairAgreement, label_quality

__all__ = [
    "METHODS",
    "Annotator",
    "Effects",
    "Finding",
    "LabelReport",
    "LabelTable",
    "Method",
    "PairAgreement",
    "PairSet",
    "build_pairs",
    "check_one_rubric",
    "label_effects",
    "label_quality",
    "label_table",
    "of_rubric",
    "to_pairs",
]
