"""Readers, data cards, curation: duplicates, mixture, contamination."""

from posttrain.data.cards import DataCard, card_path, check_consent, check_events, load_card
from posttrain.data.readers import ReadReport, RecordReader, read_records
from posttrain.data.shapes import UNTRAINED_TURNS, shape, shapes
from posttrain.data.writing import record_to_row, write_jsonl

__all__ = [
    "UNTRAINED_TURNS",
    "DataCard",
    "ReadReport",
    "RecordReader",
    "card_path",
    "check_consent",
    "check_events",
    "load_card",
    "read_records",
    "record_to_row",
    "shape",
    "shapes",
    "write_jsonl",
]
