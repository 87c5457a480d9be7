"""What is watched while a policy is aligned: numbers that can be checked by hand, and the failures they name."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from preference_data import CARD, PAIRS, TEXTS, configure, write_rows

from posttrain.chat import ChatContract
from posttrain.errors import ConfigError, DataError
from posttrain.models import LoraSettings, ModelSettings, Policy, completion_logprobs, write_tiny_model
from posttrain.stages import Quiet, run_preference
from posttrain.stages.pairs import PreferenceRules, load_pairs
from posttrain.stages.watch import (
    CHOSEN_FALLING,
    KL_RUNAWAY,
    OVERFITTING,
    STALE,
    Watch,
    WatchSettings,
    build_watched,
    find_warnings,
    format_validator,
    made_between,
    sample_requests,
    stale_warning,
    starting_fit,
)

SETTINGS = WatchSettings(samples=4, max_new_tokens=12)


class Heard(Quiet):
    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model", TEXTS, seed=1, vocab_size=320, hidden=32)


@pytest.fixture
def pairs(tmp_path, model):
    return load_pairs(write_rows(tmp_path, PAIRS), ChatContract.load(model), PreferenceRules(limit=400))


def build_watch(model, pairs, policy, **changes):
    start = torch.stack([row.sum() for row in completion_logprobs(policy, pairs.sequences)])
    watched = build_watched(pairs, range(len(pairs.items)), start)
    settings = SETTINGS.model_copy(update=changes)
    return Watch(settings, ChatContract.load(model), watched, None, sample_requests(pairs.records, settings, seed=3), seed=1)


def nudge(policy, size):
    with torch.no_grad():
        for number, parameter in enumerate(policy.trainable().values()):
            parameter.add_(size * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
    policy.refresh()


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=4)], ids=["full", "lora"])
def test_nothing_has_moved_before_the_first_update_and_everything_is_measured_after_one(model, pairs, lora):
    policy = Policy.load(ModelSettings(path=str(model), lora=lora), seed=1)
    watch = build_watch(model, pairs, policy)
    before = watch(policy)
    for name in ("chosen_change", "rejected_change", "margin", "kl"):
        assert before[name] == pytest.approx(0, abs=1e-4)
    nudge(policy, 0.05)
    after = watch(policy)
    now = [float(row.sum()) for row in completion_logprobs(policy, pairs.sequences)]
    change = np.array(now) - watch.training.start.numpy()
    assert after["chosen_change"] == pytest.approx(change[0::2].mean(), abs=1e-4)
    assert after["rejected_change"] == pytest.approx(change[1::2].mean(), abs=1e-4)
    assert after["margin"] == pytest.approx((change[0::2] - change[1::2]).mean(), abs=1e-4)
    assert after["accuracy"] == pytest.approx((change[0::2] > change[1::2]).mean())
    assert after["kl_k3"] > 0.01, "the policy has left its reference"
    assert after["kl_per_token"] == pytest.approx(after["kl"] / after["length"])
    assert watch(policy) == after, "the same policy gives the same numbers: a resumed run repeats them"
    assert policy.model.training


def test_the_share_of_valid_answers_is_watched_where_a_schema_is_given(tmp_path, model, pairs):
    policy = Policy.load(ModelSettings(path=str(model)), seed=1)
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps({"type": "object"}))
    watch = replace(build_watch(model, pairs, policy), validator=format_validator(str(schema)))
    assert watch(policy)["valid_format"] == 0.0  # a random model writes no JSON


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "none.json cannot be read"), ("[1, 2]", "a JSON schema is an object, not list"), ('{"type": "objct"}', "'objct' is not valid")],
)
def test_a_schema_that_is_none_stops_the_run_before_its_first_step(tmp_path, model, content, message):
    schema = tmp_path / "none.json"
    if content is not None:
        schema.write_text(content)
    with pytest.raises(ConfigError, match=rf"watch.json_schema: .*{message}"):
        run_preference(configure(tmp_path, watch={"every_steps": 3, "json_schema": str(schema)}), model, tmp_path / "out")
    assert not (tmp_path / "out" / "reference").exists()


def entry(step, **numbers):
    return {"step": step, "evaluations": {f"watch/{name}": value for name, value in numbers.items()}}


HEALTHY = {
    "chosen_change": 2.0,
    "chosen_change_error": 0.5,
    "chosen_change_per_token": 0.1,
    "rejected_change_per_token": -0.1,
    "accuracy": 0.9,
    "num_pairs": 32.0,
    "held_out_accuracy": 0.8,
    "held_out_num_pairs": 32.0,
    "kl": 3.0,
    "kl_error": 1.0,
}


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        (CHOSEN_FALLING, {"chosen_change": -4.0, "chosen_change_per_token": -0.2}),
        (OVERFITTING, {"accuracy": 1.0, "held_out_accuracy": 0.5}),
        (KL_RUNAWAY, {"kl": 60.0, "kl_error": 5.0}),
    ],
)
def test_each_failure_is_named_once_where_it_was_first_seen(name, numbers):
    history = [entry(5, **HEALTHY), entry(10, **{**HEALTHY, **numbers}), entry(15, **{**HEALTHY, **numbers})]
    (found,) = find_warnings(history, WatchSettings())
    assert (found.name, found.step) == (name, 10)
    assert found.message.startswith(name)
    assert found.figures[next(iter(numbers))] == numbers[next(iter(numbers))]


@pytest.mark.parametrize(
    "numbers",
    [
        {},
        {"chosen_change": -4.0, "chosen_change_per_token": -0.2, "chosen_change_error": 3.0},  # may be chance
        {"chosen_change": -0.4, "chosen_change_per_token": -0.02, "chosen_change_error": 0.01},  # too small to matter
        {"accuracy": 0.75, "num_pairs": 4.0, "held_out_accuracy": 0.5, "held_out_num_pairs": 4.0},  # four pairs prove nothing
        {"kl": 25.0, "kl_error": 8.0},
    ],
)
def test_what_may_be_chance_is_no_failure(numbers):
    assert find_warnings([entry(5, **{**HEALTHY, **numbers}), {"step": 6, "evaluations": {}}], WatchSettings()) == []


def test_pairs_from_elsewhere_are_called_stale_with_figures_and_the_policys_own_are_not(tmp_path, model):
    """A policy taught to answer 'Page' likes its own words; pairs of foreign words are far off, pairs of its own are not."""
    rows = [{**row, "chosen": row["chosen"], "rejected": f"Page of book {number}."} for number, row in enumerate(PAIRS)]
    config = configure(tmp_path, rows, objective={"name": "orpo", "beta": 0.0}, watch={"pairs": 0, "samples": 0})
    training = config.training.model_copy(update={"epochs": 12.0, "learning_rate": 2e-2})
    taught = run_preference(config.model_copy(update={"training": training}), model, tmp_path / "taught").model
    foreign = [{**row, "chosen": "zq xv jk zz qq", "rejected": "vv kq jx zq"} for row in PAIRS]
    fits = {}
    for name, data in (("own", rows), ("foreign", foreign)):
        loaded = load_pairs(write_rows(tmp_path, data, f"{name}.jsonl"), ChatContract.load(taught), PreferenceRules(limit=400))
        policy = Policy.load(ModelSettings(path=str(taught)), seed=1)
        fits[name] = starting_fit(policy, ChatContract.load(taught), build_watch(taught, loaded, policy))
    dated = [replace(row, metadata={"created": f"2024-0{month}-01"}) for month, row in zip((5, 2, 7), loaded.records, strict=False)]
    warning = stale_warning(fits["foreign"], SETTINGS, made=made_between([*dated, loaded.records[-1]]))
    assert "made between 2024-02-01 and 2024-07-01" in warning.message
    assert warning.name == STALE
    assert f"{fits['foreign']['sampled']:.2f}" in warning.message
    assert fits["foreign"]["gap"] > 2
    assert stale_warning(fits["own"], SETTINGS) is None
    assert stale_warning({}, SETTINGS) is None


def test_a_run_pushed_too_hard_says_that_the_chosen_likelihood_falls_and_goes_on(tmp_path, model):
    """Chosen and rejected differ in one word, so pushing the rejected down takes the chosen along."""
    rows = [{**row, "rejected": row["chosen"].replace("book", "tome")} for row in PAIRS]
    heard = Heard()
    config = configure(tmp_path, rows, objective={"name": "dpo", "beta": 0.05}, watch={"every_steps": 2, "samples": 2, "max_new_tokens": 8})
    hard = config.training.model_copy(update={"learning_rate": 3e-2, "epochs": 4.0, "schedule": "constant"})
    result = run_preference(config.model_copy(update={"training": hard}), model, tmp_path / "out", progress=heard)
    written = json.loads((tmp_path / "out" / "result.json").read_text())
    assert CHOSEN_FALLING in [warning["name"] for warning in written["warnings"]]
    assert any(line.startswith(f"warning: {CHOSEN_FALLING}") for line in heard.lines)
    assert sum(CHOSEN_FALLING in line for line in heard.lines) == 1
    assert result.metrics["watch/chosen_change"] < 0
    assert result.metrics["watch/margin"] > 0


def test_held_out_pairs_are_watched_and_may_not_be_trained_on(tmp_path, model):
    held = write_rows(tmp_path, [{**row, "prompt": row["prompt"].replace("Book", "Tome")} for row in PAIRS], "held.jsonl", CARD)
    result = run_preference(configure(tmp_path, held_out=held, watch={"every_steps": 3}), model, tmp_path / "out")
    assert [bool(step["evaluations"]) for step in result.history] == [False, False, True, False, False, True, True]
    assert result.metrics["watch/held_out_accuracy"] > 0.9
    config = configure(tmp_path)
    with pytest.raises(DataError, match="20 of 20 held-out rows are of dialogues that are also trained on"):
        run_preference(config.model_copy(update={"held_out": config.data}), model, tmp_path / "other")


def test_a_watch_that_finds_no_pairs_or_samples_measures_nothing(model, pairs):
    policy = Policy.load(ModelSettings(path=str(model)), seed=1)
    assert replace(build_watch(model, pairs, policy, samples=0), training=None)(policy) == {}
