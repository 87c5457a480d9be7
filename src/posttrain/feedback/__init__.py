"""What people and judges said: label quality, soft labels, adjudication."""

from posttrain.feedback.labels import LabelTable, check_one_rubric, label_table, of_rubric
from posttrain.feedback.pairs import PairSet, build_pairs, to_pairs

__all__ = ["LabelTable", "PairSet", "build_pairs", "check_one_rubric", "label_table", "of_rubric", "to_pairs"]
