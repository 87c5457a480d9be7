import json
from dataclasses import replace

import pytest

from posttrain.data import read_records, write_jsonl
from posttrain.errors import DataError
from posttrain.records import Comparison, FieldError, Judgement, Message, check_record

USER, YES, NO = Message("user", "Is 7 prime?"), Message("assistant", "Yes."), Message("assistant", "No.")
JUDGED = Judgement("ann", "a", "rubric-1", strength=2.0, first_shown="b", dimensions={"truthfulness": 3.0}, created="2026-01-02T00:00:00Z")
WHOLE = Comparison((USER,), (YES,), (NO,), (JUDGED, Judgement("bob", "tie", "rubric-1")), gold="a", id="q1", source="s", metadata={"k": 1})


def test_a_comparison_written_and_read_is_the_same(tmp_path):
    task = Comparison((USER,), (Message("assistant"),), (NO,), id="open", source="s")
    assert write_jsonl([WHOLE, task], tmp_path / "c.jsonl") == 2
    assert list(read_records(tmp_path / "c.jsonl", Comparison)) == [WHOLE, task]
    assert list(read_records(tmp_path / "c.jsonl")) == [WHOLE, task]


def test_plain_text_columns_and_csv_are_read(tmp_path):
    judgements = json.dumps([{"annotator": "ann", "choice": "b", "rubric": "r"}]).replace('"', '""')
    (tmp_path / "c.csv").write_text(f'prompt,completion_a,completion_b,judgements,model_a\nIs 7 prime?,No.,Yes.,"{judgements}",llama\n')
    (read,) = read_records(tmp_path / "c.csv", "comparison")
    assert (read.a[0].content, read.judgements[0].choice, read.metadata["model_a"]) == ("No.", "b", "llama")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"choice": "left"}, "judgements[0].choice"),
        ({"annotator": " "}, "judgements[0].annotator"),
        ({"rubric": ""}, "judgements[0].rubric"),
        ({"strength": -1.0}, "judgements[0].strength"),
        ({"strength": float("nan")}, "judgements[0].strength"),
        ({"first_shown": "left"}, "judgements[0].first_shown"),
    ],
)
def test_a_wrong_judgement_is_named(change, field):
    with pytest.raises(FieldError) as error:
        check_record(replace(WHOLE, judgements=(replace(JUDGED, **change),)))
    assert error.value.field == field


def test_wrong_sides_and_gold_are_named():
    for wrong, field in [({"gold": "c"}, "gold"), ({"a": (USER,)}, "completion_a[0].role"), ({"b": ()}, "completion_b")]:
        with pytest.raises(FieldError) as error:
            check_record(replace(WHOLE, **wrong))
        assert error.value.field == field


def test_a_misspelt_field_of_a_judgement_is_refused_with_file_and_line(tmp_path):
    row = {"prompt": "p", "completion_a": "x", "completion_b": "y", "judgements": [{"annotator": "a", "chioce": "a", "rubric": "r"}]}
    (tmp_path / "c.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=r"c\.jsonl:1: field 'judgements\[0\]\.chioce'"):
        list(read_records(tmp_path / "c.jsonl", Comparison))
