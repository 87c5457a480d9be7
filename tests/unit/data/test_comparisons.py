import csv
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from posttrain.data import load_comparisons, write_jsonl
from posttrain.data.comparisons import merge, swap
from posttrain.errors import DataError
from posttrain.records import Comparison, Judgement, Message

DATA = Path(__file__).parents[2] / "fixtures" / "data"


def test_pandalm_keeps_three_judgements_a_row_with_their_annotators():
    rows = json.loads((DATA / "pandalm.json").read_text())
    comparisons = load_comparisons(DATA / "pandalm.json")
    assert len(comparisons) == len(rows)
    for row, comparison in zip(rows, comparisons, strict=True):
        said = {one.annotator: one.choice for one in comparison.judgements}
        assert said == {name: ["tie", "a", "b"][row[name]] for name in ("annotator1", "annotator2", "annotator3")}
        assert (comparison.a[0].content, comparison.b[0].content) == (row["response1"], row["response2"])
        assert f"{comparison.metadata['model_a']}_{comparison.metadata['model_b']}" == row["cmp_key"]
        assert {one.rubric for one in comparison.judgements} == {"pandalm-2023"}


def test_fine_grained_feedback_gives_six_pairs_a_row_in_the_order_of_the_file():
    rows = json.loads((DATA / "fine_grained_qa.json").read_text())
    comparisons = load_comparisons(DATA / "fine_grained_qa.json")
    assert len(comparisons) == 6 * len(rows)
    expected = [["tie", "a", "b"][label] for row in rows for label in row["preference"]]
    assert [one.judgements[0].choice for one in comparisons] == expected
    assert comparisons[4].id.endswith(":1:24")
    assert (comparisons[4].a[0].content, comparisons[4].b[0].content) == (rows[0]["prediction 2"], rows[0]["prediction 4"])
    assert comparisons[0].prompt[0].content.endswith(f"Question: {rows[0]['question']}")
    assert rows[0]["passages"][0][1] in comparisons[0].prompt[0].content


def test_human_evaluation_joins_the_rows_about_one_pair_whichever_side_stood_first():
    with open(DATA / "human_eval.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    comparisons = load_comparisons(DATA / "human_eval.csv")
    assert sum(len(one.judgements) for one in comparisons) == len(rows)
    grades = {"a-is-better": 2, "a-is-slightly-better": 1, "tie": 0, "b-is-slightly-better": -1, "b-is-better": -2}
    expected = Counter()  # (prompt, model, other model, evaluator) -> grade towards the first model
    for row in rows:
        first, second, sign = [*sorted([row["model_a"], row["model_b"]]), 1 if row["model_a"] < row["model_b"] else -1]
        expected[row["prompt"], first, second, row["evaluator"], sign * grades[row["preference"]]] += 1
    found = Counter()
    for one in comparisons:
        first, second = sorted([one.metadata["model_a"], one.metadata["model_b"]])
        sign = 1 if one.metadata["model_a"] == first else -1
        for judgement in one.judgements:
            grade = sign * {"a": 1, "b": -1, "tie": 0}[judgement.choice] * int(judgement.strength)
            found[one.prompt[0].content, first, second, judgement.annotator, grade] += 1
    assert found == expected
    assert any(judgement.first_shown == "b" for one in comparisons for judgement in one.judgements)


def test_swapping_twice_is_the_same_and_once_turns_everything_round():
    one = Comparison(
        (Message("user", "q"),),
        (Message("assistant", "x"),),
        (Message("assistant", "y"),),
        (Judgement("ann", "a", "r", first_shown="b", dimensions={"a_is_acceptable": "no", "truth": 1.0}),),
        gold="b",
        metadata={"model_a": "m", "model_b": "n"},
    )
    turned = swap(one)
    assert (turned.a[0].content, turned.gold, turned.metadata) == ("y", "a", {"model_a": "n", "model_b": "m"})
    assert turned.judgements == (Judgement("ann", "b", "r", first_shown="a", dimensions={"b_is_acceptable": "no", "truth": 1.0}),)
    assert swap(turned) == one


def test_rows_of_one_judgement_are_joined_and_contrary_gold_answers_are_refused(tmp_path):
    one = Comparison(
        (Message("user", "q"),), (Message("assistant", "x"),), (Message("assistant", "y"),), (Judgement("ann", "a", "r"),), id="1"
    )
    other = replace(swap(one), judgements=(Judgement("bob", "a", "r"),))
    write_jsonl([one, other], tmp_path / "c.jsonl")
    (joined,) = load_comparisons(tmp_path / "c.jsonl")
    assert [(j.annotator, j.choice) for j in joined.judgements] == [("ann", "a"), ("bob", "b")]
    with pytest.raises(DataError, match="1 and 1 are one comparison with gold answers"):
        merge([replace(one, gold="a"), replace(other, gold="a")])


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("fine_grained_qa.json", {"preference": [0, 1]}, "row 1: field 'preference': is not a list of six labels"),
        ("fine_grained_qa.json", {"preference": [0, 1, 2, 3, 0, 1]}, "is none of 0"),
        ("pandalm.json", {"annotator2": 5}, "row 1: field 'annotator2': is none of 0"),
    ],
)
def test_a_foreign_label_is_refused_with_its_row(tmp_path, name, change, said):
    rows = json.loads((DATA / name).read_text())
    rows[0].update(change)
    (tmp_path / name).write_text(json.dumps(rows))
    with pytest.raises(DataError, match=said):
        load_comparisons(tmp_path / name)
