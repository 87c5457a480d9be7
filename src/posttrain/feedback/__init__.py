"""What people and judges said: label quality, soft labels, adjudication."""

from posttrain.data.comparisons import check_one_rubric
from posttrain.feedback.adjudication import Doubt, adjudication_queue, labelling_tasks, take_decisions
from posttrain.feedback.annotators import Annotator, Finding
from posttrain.feedback.effects import Effects, label_effects
from posttrain.feedback.labels import LabelTable, label_table, of_rubric
from posttrain.feedback.pairs import METHODS, Method, PairSet, build_pairs, to_pairs
from posttrain.feedback.quality import LabelReport, PairAgreement, label_quality
from posttrain.feedback.rubric import Dimension, Rubric, load_rubric
from posttrain.feedback.tables import Table, label_tables, report_lines, write_page

__all__ = [
    "METHODS",
    "Annotator",
    "Dimension",
    "Doubt",
    "Effects",
    "Finding",
    "LabelReport",
    "LabelTable",
    "Method",
    "PairAgreement",
    "PairSet",
    "Rubric",
    "Table",
    "adjudication_queue",
    "build_pairs",
    "check_one_rubric",
    "label_effects",
    "label_quality",
    "label_table",
    "label_tables",
    "labelling_tasks",
    "load_rubric",
    "of_rubric",
    "report_lines",
    "take_decisions",
    "to_pairs",
    "write_page",
]
