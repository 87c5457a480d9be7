"""The reward model stage on a tiny model, from Python."""

import json
import math
import os
import shutil
import signal

import pytest
import torch
from reward_data import CARD, configure, polite_rows, swapped, write_rows
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from posttrain.chat import ChatContract
from posttrain.config import parse
from posttrain.errors import CheckFailed, ConfigError, DataError, InfrastructureError, TrainingError
from posttrain.lineage import LineageStore
from posttrain.models import ModelSettings, ScalarModel
from posttrain.rewards import CALIBRATION_FILE
from posttrain.stages import STAGES, Quiet, RewardModelConfig, run_reward_model
from posttrain.stages.reward_model import load_splits


class Heard(Quiet):
    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


def test_it_learns_a_simple_preference_and_says_how_sure_that_is(polite):
    metrics = polite.metrics
    assert metrics["first_loss"] == pytest.approx(math.log(2), abs=0.2)  # random rewards tell nothing apart
    assert metrics["test_accuracy_low"] > 0.5
    folder = polite.model.parent
    evaluation = json.loads((folder / "evaluation.json").read_text())
    measured = evaluation["slices"]["all"]
    assert measured["pairs"] == metrics["test_pairs"] > 5
    assert measured["accuracy"]["low"] == metrics["test_accuracy_low"]
    calibration = json.loads((polite.model / CALIBRATION_FILE).read_text())
    assert calibration["pairs"] == metrics["calibration_pairs"] > 5
    assert {probe["name"] for probe in evaluation["probes"]} == {"length", "flattery", "markdown", "position"}


def test_shares_set_aside_are_whole_prompts_and_add_up(polite):
    metrics = polite.metrics
    assert metrics["train_pairs"] + metrics["calibration_pairs"] + metrics["test_pairs"] == metrics["rows"] == 240


def test_pairs_share_their_prompt(polite):
    assert polite.metrics["packed_tokens"] < 0.75 * polite.metrics["logical_tokens"]


def test_the_written_folder_is_a_plain_classifier_and_lineage_knows_its_parents(tmp_path, start):
    store, heard = LineageStore(tmp_path / "l.db"), Heard()
    config = configure(tmp_path, polite_rows(40), lora={"rank": 4}, calibration=0.2, test=0.2, training={"epochs": 1})
    result = run_reward_model(config, start, tmp_path / "out", lineage=store, progress=heard)
    assert result.adapter is None
    assert heard.lines[0].endswith("to test on")
    model = AutoModelForSequenceClassification.from_pretrained(result.model)
    assert model.config.num_labels == 1
    assert not any("lora" in name for name, _ in model.named_parameters())
    assert {node.kind for node in store.ancestors(result.id)} == {"model", "data", "template", "config", "seed", "code", "environment"}
    assert store.verify() == []


def test_a_stopped_run_goes_on_and_ends_in_the_same_bits(tmp_path, start):
    class Stopper(Quiet):
        def advance(self, done, total, note=""):
            if done == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    config = configure(tmp_path, polite_rows(64), lora={"rank": 4, "targets": "attention+mlp"}, training={"epochs": 2}, probes=False)
    with pytest.raises(InfrastructureError, match="stopped by SIGTERM after step 3 of"):
        run_reward_model(config, start, tmp_path / "stopped", progress=Stopper())
    again = run_reward_model(config, start, tmp_path / "stopped")
    straight = run_reward_model(config, start, tmp_path / "straight")
    for name in ("model.safetensors", CALIBRATION_FILE):
        assert (again.model / name).read_bytes() == (straight.model / name).read_bytes()
    assert again.metrics == straight.metrics


def test_soft_labels_keep_rewards_closer_than_certain_ones(tmp_path, start):
    """P = .75 for every pair: the loss is least where sigmoid(difference) = .75, that is at log 3."""
    rows = [row | {"probability": 0.75} for row in polite_rows(120)]
    config = configure(tmp_path, rows, test=0.2, calibration=0.0, probes=False, training={"epochs": 8, "learning_rate": 5e-3})
    result = run_reward_model(config, start, tmp_path / "out")
    margin = json.loads((tmp_path / "out" / "evaluation.json").read_text())["slices"]["all"]["margin"]
    assert margin == pytest.approx(math.log(3), abs=0.35)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert result.metrics["final_loss"] == pytest.approx(entropy, abs=0.05)


def test_several_seeds_report_their_spread_and_disagreement(tmp_path, start):
    config = configure(tmp_path, polite_rows(80), seeds=[5], test=0.3, probes=False, training={"epochs": 2})
    run_reward_model(config, start, tmp_path / "out")
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())["seeds"]
    assert found["accuracy"].keys() == {"17", "5"}
    first, second = found["accuracy"].values()
    assert found["mean"] == pytest.approx((first + second) / 2)
    assert found["deviation"] == pytest.approx(abs(first - second) / math.sqrt(2))
    assert 0 <= found["disagreement"]["order"] <= 1
    first, other = (AutoModelForSequenceClassification.from_pretrained(tmp_path / "out" / folder / "model") for folder in ("", "seeds/5"))
    assert not torch.equal(first.score.weight, other.score.weight)


def test_files_for_calibration_and_test_are_read_as_published(tmp_path, start):
    llmbar = [
        {"input": row["prompt"], "output_1": row["chosen"], "output_2": row["rejected"], "label": 1} for row in polite_rows(20, seed=3)
    ]
    (tmp_path / "dataset.json").write_text(json.dumps(llmbar))
    write_rows(tmp_path, polite_rows(20, seed=4), "calibration.jsonl")
    config = configure(
        tmp_path,
        polite_rows(60),
        calibration=str(tmp_path / "calibration.jsonl"),
        test={"llmbar": str(tmp_path / "dataset.json"), "people": "tests/fixtures/data/pandalm.json"},
        on_too_long="drop",
        probes=False,
        training={"epochs": 1},
    )
    heard = Heard()
    result = run_reward_model(config, start, tmp_path / "out", progress=heard)
    slices = json.loads((tmp_path / "out" / "evaluation.json").read_text())["slices"]
    assert slices.keys() <= {"all", "llmbar", "people"}
    assert slices["llmbar"]["pairs"] == 20
    assert (result.metrics["train_pairs"], result.metrics["calibration_pairs"]) == (60, 20)


@pytest.mark.parametrize(("part", "said"), [("calibration", "calibration"), ("test", "test slice 'test'")])
def test_a_prompt_in_two_splits_is_refused_with_figures(tmp_path, start, part, said):
    rows = polite_rows(40)
    extra = write_rows(tmp_path, [*swapped(rows[:3]), *polite_rows(9, seed=8)], "more.jsonl")
    config = configure(tmp_path, rows, **{"calibration": 0.0, "test": 0.0, part: extra})
    with pytest.raises(CheckFailed, match=f"3 of the 12 prompts of {said} are also in .*pairs.jsonl"):
        run_reward_model(config, start, tmp_path / "out")


def test_a_test_prompt_in_the_calibration_split_is_refused(tmp_path, start):
    both = write_rows(tmp_path, polite_rows(9, seed=8), "more.jsonl")
    with pytest.raises(CheckFailed, match="9 of the 9 prompts of test slice 'test' are also in calibration"):
        run_reward_model(configure(tmp_path, polite_rows(40), calibration=both, test=both), start, tmp_path / "out")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": ""}, "field 'rejected': is empty"),
        ({"prompt": "a", "chosen": "b"}, "rejected"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "field 'rejected': equals 'chosen'"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": -1}, "have a margin below 0"),
        ({"prompt": "word " * 300, "chosen": "b", "rejected": "c"}, r"1 of 41 rows longer than 256 tokens: 41 \(\d+ and \d+ tokens\)"),
    ],
)
def test_pairs_that_cannot_train_fairly_are_named(tmp_path, start, row, message):
    with pytest.raises(DataError, match=message):
        run_reward_model(configure(tmp_path, [*polite_rows(40), row]), start, tmp_path / "out")


def test_a_pair_with_one_long_side_is_left_out_whole(tmp_path, start):
    rows = [*polite_rows(40), {"prompt": "a", "chosen": "b", "rejected": "word " * 300}]
    config = configure(tmp_path, rows, on_too_long="drop", calibration=0.0, test=0.0, training={"epochs": 1})
    result = run_reward_model(config, start, tmp_path / "out")
    assert (result.metrics["train_pairs"], result.metrics["rows_too_long"]) == (40, 1)


def test_a_reward_that_is_not_a_number_stops_before_the_update_and_names_the_rows(tmp_path, start):
    shutil.copytree(start, tmp_path / "broken")
    weights = load_file(tmp_path / "broken" / "model.safetensors")
    weights["model.norm.weight"].fill_(3e38)  # finite, but its products overflow
    save_file(weights, tmp_path / "broken" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainingError, match=r"step 1 was stopped before its update: the loss of micro-batch 0 is nan \(data rows "):
        run_reward_model(configure(tmp_path, polite_rows(40), calibration=0.0), tmp_path / "broken", tmp_path / "out")


def test_constant_rewards_end_the_stage_with_figures(tmp_path, start):
    """A learning rate of next to nothing leaves a zero score row where it is: every text gets 0."""
    shutil.copytree(start, tmp_path / "flat")
    model = ScalarModel.load(ModelSettings(path=str(start), dtype="float32"), seed=0)
    with torch.no_grad():
        model.trainable()["score.weight"].zero_()
    model.save(tmp_path / "flat", ChatContract.load(start))
    config = configure(tmp_path, polite_rows(40), calibration=0.3, training={"learning_rate": 1e-30, "epochs": 1})
    with pytest.raises(CheckFailed, match=r"both sides of all \d+ calibration pairs get the same reward \(mean [-\d.e]+, standard dev"):
        run_reward_model(config, tmp_path / "flat", tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": {"name": "bradley_terry", "centre": 1}}, "centre"),
        ({"objective": {"name": "dpo"}}, "dpo"),
        ({"calibration": 0.7}, "calibration"),
        ({"adapter": "x"}, "merge 'adapter' into the model first"),
        ({"seeds": [17]}, "repeats a seed"),
        ({"test": {"all": "x.jsonl"}}, "a slice called 'all'"),
        ({"lora": {"dropout": 0.1}}, "'lora.dropout' above 0 needs"),
    ],
)
def test_settings_that_are_wrong_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        STAGES.get("reward_model").parse({"data": "x", **settings}, where="recipe")


def test_settings_have_the_methods_own_defaults_and_survive_a_dump():
    config = parse(RewardModelConfig, {"data": "x", "objective": {"name": "bradley_terry", "center": 0.01}}, where="test")
    assert config.training.learning_rate == 1e-5
    assert config.dump()["objective"] == {"name": "bradley_terry", "center": 0.01}
    assert parse(RewardModelConfig, config.dump(), where="test") == config
    assert parse(RewardModelConfig, {"data": "x", "lora": {}}, where="test").training.learning_rate == 1e-4
    assert STAGES.get("reward_model").makes == "reward_model"


def test_data_without_consent_does_not_train(tmp_path, start):
    config = configure(tmp_path, polite_rows(40))
    (tmp_path / "pairs.jsonl.card.yaml").write_text(CARD.replace("made data", "unknown"))
    with pytest.raises(CheckFailed, match="its card gives no consent"):
        run_reward_model(config, start, tmp_path / "out")


def test_what_calibration_and_test_files_lost_is_counted_and_said(tmp_path, start):
    bad, long = {"prompt": "a", "chosen": "b", "rejected": ""}, {"prompt": "c", "chosen": "b", "rejected": "word " * 300}
    calibration = write_rows(tmp_path, [*polite_rows(8, seed=3), bad], "calibration.jsonl")
    test = write_rows(tmp_path, [*polite_rows(9, seed=4), bad, bad | {"prompt": "d"}, long], "test.jsonl")
    rules = {"on_bad_row": "skip", "on_too_long": "drop", "probes": False, "training": {"epochs": 1}}
    heard = Heard()
    config = configure(tmp_path, polite_rows(40), calibration=calibration, test=test, **rules)
    metrics = run_reward_model(config, start, tmp_path / "out", progress=heard).metrics
    assert (metrics["calibration_pairs"], metrics["calibration_left_out"]) == (8, 1)
    assert (metrics["test_pairs"], metrics["test_left_out"]) == (9, 3)
    lost = {"calibration": {"unreadable": 1}, "test slice 'test'": {"unreadable": 2, "longer than 256 tokens": 1}}
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["left_out"] == lost
    assert "test slice 'test': left out 2 unreadable, 1 longer than 256 tokens" in heard.lines[0]


TOO_LONG = {"prompt": "c", "chosen": "b", "rejected": "word " * 300}


@pytest.mark.parametrize(
    ("part", "rows", "message"),
    [
        ("test", [*polite_rows(9, seed=4), TOO_LONG], "1 of 10 pairs are longer than 256 tokens"),
        ("calibration", [*polite_rows(9, seed=4), TOO_LONG], "1 of 10 pairs are longer than 256 tokens"),
        ("test", [row | {"probability": 0.5} for row in polite_rows(9, seed=4)], "test slice 'test': all 9 labels are one half"),
    ],
)
def test_what_cannot_be_evaluated_stops_before_training(tmp_path, start, part, rows, message):
    config = configure(tmp_path, polite_rows(40), **{part: write_rows(tmp_path, rows, "extra.jsonl")})
    with pytest.raises(DataError, match=message):
        run_reward_model(config, start, tmp_path / "out")
    assert not (tmp_path / "out" / "model").exists()


def test_a_dialogue_and_its_continuation_are_on_one_side_of_every_split(tmp_path, start):
    rows = polite_rows(60)
    turns = [{"role": "user", "content": row["prompt"]} for row in rows]
    longer = [
        row | {"prompt": [turn, {"role": "assistant", "content": row["chosen"]}, {"role": "user", "content": "And two?"}]}
        for row, turn in zip(rows, turns, strict=True)
    ]
    both = [
        row for pair in zip((row | {"prompt": [turn]} for row, turn in zip(rows, turns, strict=True)), longer, strict=True) for row in pair
    ]
    splits = load_splits(configure(tmp_path, both, calibration=0.2, test=0.2), ChatContract.load(start), start)
    parts = [splits.calibration, *splits.test.values()]
    found = [[pair.prompt[0].content for pair in pairs] for pairs in parts]
    assert all(pairs for pairs in found)
    assert all(pairs.count(first) == 2 for pairs in found for first in pairs)
    extra = write_rows(tmp_path, longer[:7], "extra.jsonl")
    config = configure(tmp_path, [row | {"prompt": row["prompt"].upper()} for row in rows], calibration=0.0, test=extra)
    with pytest.raises(CheckFailed, match="7 of the 7 prompts of test slice 'test' are also in"):
        load_splits(config, ChatContract.load(start), start)


@pytest.mark.parametrize("part", ["calibration", "test"])
def test_calibration_and_test_files_without_consent_are_refused(tmp_path, start, part):
    extra = write_rows(tmp_path, polite_rows(9, seed=4), "extra.jsonl")
    (tmp_path / "extra.jsonl.card.yaml").write_text(CARD.replace("made data", "withdrawn"))
    with pytest.raises(CheckFailed, match=r"extra\.jsonl: its card gives no consent"):
        run_reward_model(configure(tmp_path, polite_rows(40), **{part: extra}), start, tmp_path / "out")
