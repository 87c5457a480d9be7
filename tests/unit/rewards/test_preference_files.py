import json
from pathlib import Path

import pytest
from reward_data import polite_rows, write_rows

from posttrain.errors import DataError
from posttrain.stages.preference_files import load_slices, read_preferences, score_file

DATA = Path(__file__).parents[2] / "fixtures" / "data"


def test_published_files_are_read_as_they_are():
    assert len(read_preferences(DATA / "llmbar_natural.json").pairs) == 12
    assert read_preferences(DATA / "hh_pairs.jsonl.gz").pairs[0].prompt[-1].role == "user"


def test_three_annotators_become_the_pair_most_of_them_chose():
    rows = json.loads((DATA / "pandalm.json").read_text())
    votes = [[str(row[f"annotator{number}"]) for number in (1, 2, 3)] for row in rows]
    decided = [max("12", key=vote.count) for vote in votes if max(vote.count("1"), vote.count("2")) >= 2]
    found = read_preferences(DATA / "pandalm.json")
    assert len(found.pairs) + sum(found.left_out.values()) == len(rows)
    assert len(found.pairs) + found.left_out.get("empty answer", 0) + found.left_out.get("equal answers", 0) >= len(decided)
    by_prompt = {(pair.chosen[0].content, pair.rejected[0].content) for pair in found.pairs}
    for row, vote in zip(rows, votes, strict=True):
        if vote.count("1") >= 2 and row["response1"].strip() and row["response2"].strip() and row["response1"] != row["response2"]:
            assert (row["response1"], row["response2"]) in by_prompt


def test_six_pairs_of_one_question_share_their_prompt():
    pairs = read_preferences(DATA / "fine_grained_qa.json").pairs
    assert len({pair.prompt for pair in pairs}) < len(pairs)


def test_pairs_over_the_context_stop_or_are_left_out_whole(judge, tmp_path):
    rows = [*polite_rows(3), {"prompt": "a", "chosen": "b", "rejected": "word " * 300}]
    path = write_rows(tmp_path, rows)
    with pytest.raises(DataError, match="1 of 4 pairs exceed the model's 256 tokens"):
        load_slices(judge, {"x": path}, drop_long=False)
    slices, notes = load_slices(judge, {"x": path}, drop_long=True)
    assert len(slices["x"]) == 3
    assert notes == ["x: left out 1 longer than 256 tokens"]


def test_every_kind_of_answer_is_scored(judge, tmp_path):
    pair = polite_rows(1)[0]
    paired = score_file(judge, write_rows(tmp_path, [pair]))[0]
    single = [{"prompt": pair["prompt"], "completion": pair[side]} for side in ("chosen", "rejected")]
    alone = score_file(judge, write_rows(tmp_path, single, "single.jsonl"))
    assert [row["reward"] for row in alone] == pytest.approx([paired["chosen"], paired["rejected"]], abs=1e-5)
    assert paired["probability"] == pytest.approx(judge.probability(paired["chosen"], paired["rejected"]))
    tasks = [{"prompt": "a", "reward_model": {"ground_truth": "1"}, "data_source": "math"}]
    with pytest.raises(DataError, match="a VerifiableTask holds no answer to score"):
        score_file(judge, write_rows(tmp_path, tasks, "tasks.jsonl"))
