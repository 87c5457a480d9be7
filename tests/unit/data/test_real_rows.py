"""Rows as their publishers wrote them (see tests/fixtures/data/NOTICE.md)."""

from pathlib import Path

from posttrain.data import read_records
from posttrain.records import PreferencePair, StepLabels

FIXTURES = Path(__file__).parents[2] / "fixtures" / "data"


def test_hh_transcripts_split_before_the_first_different_turn():
    pairs = list(read_records(FIXTURES / "hh_pairs.jsonl.gz"))
    assert len(pairs) == 5
    for pair in pairs:
        assert isinstance(pair, PreferencePair)
        assert pair.prompt[-1].role == "user"
        assert [turn.role for turn in (*pair.chosen, *pair.rejected)] == ["assistant"] * 2
        assert "Human:" not in pair.chosen[0].content


def test_gsm8k_questions_and_answers():
    records = list(read_records(FIXTURES / "gsm8k_train.jsonl"))
    assert len(records) == 20
    assert all("####" in record.messages[1].content for record in records)


def test_big_bench_mistakes_label_the_steps():
    records = list(read_records(FIXTURES / "multistep_arithmetic.jsonl"))
    assert len(records) == 6
    for record in records:
        assert isinstance(record, StepLabels)
        wrong = [position for position, label in enumerate(record.labels) if label is False]
        assert len(wrong) <= 1
        assert all(record.labels[: wrong[0]] if wrong else record.labels)
        assert "target" in record.metadata
