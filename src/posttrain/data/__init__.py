"""Readers, data cards, curation: duplicates, mixture, contamination."""

from posttrain.data import preference_sets as preference_sets  # registers its row shapes
from posttrain.data.cards import DataCard, card_path, check_consent, check_events, load_card
from posttrain.data.comparisons import load_comparisons
from posttrain.data.leakage import ContaminationReport, Hit, contamination
from posttrain.data.mixture import GroupStatistics, MixtureReport, looks_like_refusal, mixture_report
from posttrain.data.readers import ReadReport, RecordReader, read_for_prompts, read_records, rejects_file
from posttrain.data.repeats import Duplicate, DuplicateReport, duplicates
from posttrain.data.shapes import shape, shapes
from posttrain.data.words import segments, speech
from posttrain.data.writing import record_to_row, write_jsonl

__all__ = [
    "ContaminationReport",
    "DataCard",
    "Duplicate",
    "DuplicateReport",
    "GroupStatistics",
    "Hit",
    "MixtureReport",
    "ReadReport",
    "RecordReader",
    "card_path",
    "check_consent",
    "check_events",
    "contamination",
    "duplicates",
    "load_card",
    "load_comparisons",
    "looks_like_refusal",
    "mixture_report",
    "read_for_prompts",
    "read_records",
    "record_to_row",
    "rejects_file",
    "segments",
    "shape",
    "shapes",
    "speech",
    "write_jsonl",
]
