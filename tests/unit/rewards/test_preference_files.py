import json
from pathlib import Path

import pytest
from reward_data import polite_rows, write_rows

from posttrain.errors import ConfigError, DataError
from posttrain.rewards import RewardModel
from posttrain.stages.preference_files import load_slices, named_files, read_preferences, score_file

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
        load_slices([judge], {"x": path}, drop_long=False)
    slices, notes = load_slices([judge], {"x": path}, drop_long=True)
    assert len(slices["x"]) == 3
    assert notes == ["x: left out 1 longer than 256 tokens"]


def test_every_kind_of_answer_is_scored(judge, tmp_path):
    pair = polite_rows(1)[0]
    paired = score_file(judge, write_rows(tmp_path, [pair]))[0][0]
    single = [{"prompt": pair["prompt"], "completion": pair[side]} for side in ("chosen", "rejected")]
    alone, _ = score_file(judge, write_rows(tmp_path, single, "single.jsonl"))
    assert [row["reward"] for row in alone] == pytest.approx([paired["chosen"], paired["rejected"]], abs=1e-5)
    assert paired["probability"] == pytest.approx(judge.probability(paired["chosen"], paired["rejected"]))
    tasks = [{"prompt": "a", "reward_model": {"ground_truth": "1"}, "data_source": "math"}]
    with pytest.raises(DataError, match="a VerifiableTask holds no answer to score"):
        score_file(judge, write_rows(tmp_path, tasks, "tasks.jsonl"))


def test_files_are_named_and_a_path_may_hold_an_equals_sign(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seed=1").mkdir()
    for name in ("seed=1/test.jsonl", "pairs.jsonl"):
        (tmp_path / name).write_text("{}")
    assert named_files(["seed=1/test.jsonl", "pairs.jsonl"]) == {"test.jsonl": "seed=1/test.jsonl", "pairs.jsonl": "pairs.jsonl"}
    assert named_files(["one=seed=1/test.jsonl", "two=missing.jsonl"]) == {"one": "seed=1/test.jsonl", "two": "missing.jsonl"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["a/dataset.json", "b/dataset.json"], "two slices are called 'dataset.json': a/dataset.json and b/dataset.json"),
        (["x=a.json", "x=b.json"], "two slices are called 'x': a.json and b.json"),
        (["all=a.json"], "all=a.json: a slice cannot be called 'all'"),
        (["=a.json"], "=a.json: a slice cannot be called ''"),
    ],
)
def test_slices_that_would_replace_each_other_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        named_files(given)


def test_a_row_with_an_empty_answer_stops_or_is_set_aside_and_counted(judge, tmp_path):
    pair = polite_rows(1)[0]
    path = write_rows(tmp_path, [*polite_rows(3), pair | {"rejected": ""}, *polite_rows(2, seed=5)])
    with pytest.raises(DataError, match="field 'rejected': is empty"):
        load_slices([judge], {"x": path}, drop_long=False)
    slices, notes = load_slices([judge], {"x": path}, drop_long=False, on_bad_row="skip")
    assert (len(slices["x"]), notes) == (5, ["x: left out 1 unreadable"])
    rows, notes = score_file(judge, path, on_bad_row="skip")
    assert (len(rows), notes) == (5, [f"{path}: left out 1 unreadable"])


def test_rows_too_long_to_score_are_named_by_their_number(judge, tmp_path):
    path = write_rows(
        tmp_path,
        [*polite_rows(2), {"prompt": "a", "chosen": "b", "rejected": ""}, {"prompt": "a", "chosen": "b", "rejected": "word " * 300}],
    )
    with pytest.raises(DataError, match=r"1 of 3 rows are longer than the model's 256 tokens: rows 3 \(\d+ tokens\)"):
        score_file(judge, path, on_bad_row="skip")


def test_pairs_must_fit_every_model_they_are_read_for(judge, tmp_path):
    short = RewardModel.load(judge.folder, dtype="float32")
    short._model.model.config.max_position_embeddings = 40
    long = {"prompt": "a", "chosen": "b", "rejected": "word " * 40}
    path = write_rows(tmp_path, [*polite_rows(3), long])
    assert len(load_slices([judge], {"x": path}, drop_long=False)[0]["x"]) == 4
    with pytest.raises(DataError, match="1 of 4 pairs exceed the model's 40 tokens"):
        load_slices([judge, short], {"x": path}, drop_long=False)


TOOLS = [{"type": "function", "function": {"name": "price", "description": "The price of a thing.", "parameters": {}}}]


def test_tools_are_part_of_what_is_scored(tooled, tmp_path):
    row = polite_rows(1)[0] | {"tools": TOOLS}
    pair = read_preferences(write_rows(tmp_path, [row])).pairs[0]
    expected = tooled.score_pairs([pair])[0]
    assert expected[0] != tooled.score([(pair.prompt, pair.chosen)])[0], "the template writes the tools"
    found = score_file(tooled, write_rows(tmp_path, [row]))[0][0]
    assert [found["chosen"], found["rejected"]] == pytest.approx(expected, abs=1e-5)
