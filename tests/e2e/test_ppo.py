"""PPO from the stage and from the command line, on a tiny model and real tiny reward models."""

import contextlib
import gzip
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ppo_world import BAD, CARD, GOOD, build, config, hashes, question, train_reward_model, untimed
from safetensors.torch import load_file

from posttrain.chat import ChatContract
from posttrain.cli.main import main
from posttrain.errors import ConfigError, ContractError, DataError, InfrastructureError, TrainingError
from posttrain.generation import LocalGenerator
from posttrain.models import LoraSettings, ModelSettings, ScalarModel, load_for_inference, write_tiny_model
from posttrain.models.actor_critic import ActorCritic
from posttrain.records import GenerationRequest, Message, PreferencePair, SamplingSettings
from posttrain.rewards import RewardModel
from posttrain.stages import run_ppo
from posttrain.stages.ppo_loop import Judges, PpoRun, measure, restore_best
from posttrain.stages.ppo_report import evaluate, measure_result
from posttrain.stages.ppo_rollouts import load_prompts, run_passes, sample, score
from posttrain.stages.ppo_update import Updater, build_items

PAIRS = Path(__file__).parents[1] / "fixtures/data/hh_pairs.jsonl.gz"
STEADY = {
    "kl": {"name": "fixed", "coefficient": 0.2},
    "minibatches": 1,
    "epochs_per_update": 2,
    "training": {"learning_rate": 2e-3, "max_steps": 16, "sequences_per_step": 32},
}


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    torch.set_num_threads(1)
    return build(tmp_path_factory.mktemp("ppo"))


@pytest.fixture(scope="session")
def steady(world):
    """A run of 16 updates with a held-out reward model."""
    settings = config(world, held_out_reward_model=str(world / "held_out_reward"), **STEADY)
    return run_ppo(settings, world / "start", world / "steady"), settings


def test_reward_rises_on_held_out_prompts_and_kl_stays_within_budget(steady):
    result, settings = steady
    assert result.metrics["reward_gain_low"] > 0
    assert result.metrics["held_out_reward_gain_low"] > 0
    assert 0 < result.metrics["kl"] <= settings.kl_budget
    assert result.metrics["updates"] == 16


def test_the_history_carries_everything_that_is_watched(steady):
    result, _ = steady
    first, last = result.history[0], result.history[-1]
    assert first["kl"] == pytest.approx(0, abs=1e-4)  # before the first update the policy is the reference
    watched = (
        "reward held_out_reward kl kl_k3 kl_coef entropy clip_fraction update_kl policy_loss value_loss explained_variance length eos_share"
    )
    watched += " reward_per_token generation_seconds scoring_seconds update_seconds"
    assert set(watched.split()) <= set(last)
    assert max(entry["explained_variance"] for entry in result.history) > 0.1  # the value has learned something
    assert sum(entry["generation_seconds"] for entry in result.history) == pytest.approx(result.metrics["generation_seconds"])


def test_the_adapter_is_a_plain_peft_folder_that_gives_the_answers_of_the_report(world, steady):
    result, settings = steady
    assert sorted(file.name for file in result.adapter.glob("adapter*")) == ["adapter_config.json", "adapter_model.safetensors"]
    contract = ChatContract.load(world / "start")
    prompts, _ = load_prompts(settings.held_out, contract, settings, context=2048)
    model = load_for_inference(world / "start", result.adapter, "float32")
    rows = [json.loads(line) for line in (world / "steady" / "answers.jsonl").read_text().splitlines()]
    seeds = [int(np.random.SeedSequence([17, 0, position]).generate_state(1, np.uint64)[0]) for position in range(len(prompts))]
    requests = [
        GenerationRequest(prompt.messages, sampling=SamplingSettings(max_new_tokens=16, temperature=1.0, seed=seed))
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    answers = LocalGenerator(model.get_base_model(), contract).generate(requests)
    assert [row["after"]["text"] for row in rows] == [answer.text for answer in answers]
    reward = RewardModel.load(world / "reward", dtype="float32")
    assert [row["after"]["reward"] for row in rows] == pytest.approx(_text_scores(reward, prompts, answers), rel=1e-4, abs=1e-4)


def _text_scores(reward, prompts, answers):
    return reward.score([(prompt.messages, (Message("assistant", answer.text),)) for prompt, answer in zip(prompts, answers, strict=True)])


@pytest.fixture(scope="session")
def live(world):
    """Models with an adapter that is not zero, prompts, and settings."""
    settings = config(world)
    models = ActorCritic.load(ModelSettings(path=str(world / "start"), dtype="float32", lora=LoraSettings(rank=4)), seed=1)
    with torch.no_grad():
        for name, parameter in models.policy.trainable().items():
            if "lora_B" in name:
                parameter.normal_(0, 0.05, generator=torch.Generator().manual_seed(0))
    contract = ChatContract.load(world / "start")
    prompts, _ = load_prompts(settings.data, contract, settings, context=2048)
    return models, contract, prompts, settings


def test_answers_keep_the_ids_that_were_drawn_and_repeat_whatever_the_batch(live):
    models, contract, prompts, settings = live
    rollouts = sample(models, contract, prompts, settings, update=3)
    for rollout in rollouts:
        ids, start = rollout.sequence.input_ids.tolist(), len(rollout.prompt.ids)
        assert ids[:start] == rollout.prompt.ids.tolist()
        assert rollout.sequence.completion_mask.tolist() == [False] * start + [True] * (len(ids) - start)
        assert rollout.ended == (ids[-1] in contract.eos_token_ids)
        assert rollout.ended or rollout.length == settings.max_new_tokens
        assert rollout.text == contract.decode(ids[start:-1] if rollout.ended else ids[start:])
    again = sample(models, contract, prompts[:5], settings.model_copy(update={"generation_batch_size": 2}), update=3)
    assert [rollout.text for rollout in again] == [rollout.text for rollout in rollouts[:5]]
    assert [rollout.text for rollout in sample(models, contract, prompts, settings, update=4)] != [rollout.text for rollout in rollouts]


def test_the_policy_that_is_scored_is_the_policy_that_answered(live):
    """The generator's own log-probabilities of its draws equal the packed forest's, in the order of the rollouts."""
    models, contract, prompts, settings = live
    rollouts = sample(models, contract, prompts, settings, update=1)
    passes = run_passes(models, rollouts, settings.training.model_copy(update={"max_tokens_per_microbatch": 100}))
    seeds = [int(np.random.SeedSequence([17, 1, position]).generate_state(1, np.uint64)[0]) for position in range(len(prompts))]
    requests = [
        GenerationRequest(prompt.messages, sampling=SamplingSettings(max_new_tokens=16, temperature=1.0, seed=seed, logprobs=True))
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    with models.sampling() as stock:
        answers = LocalGenerator(stock, contract).generate(requests)
    assert passes.lengths.tolist() == [answer.num_completion_tokens for answer in answers]
    drawn = torch.tensor([value for answer in answers for value in answer.logprobs])
    torch.testing.assert_close(passes.logprobs, drawn, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(passes.logprobs, passes.ref_logprobs, atol=1e-3)


@pytest.fixture
def update(live, world):
    """An optimiser and the items of one update."""
    models, contract, prompts, settings = live
    settings = config(world, minibatches=1, epochs_per_update=3, training={"learning_rate": 1e-3})
    rollouts = sample(models, contract, prompts[:8], settings, update=1)
    scores = torch.tensor(score(RewardModel.load(world / "reward"), rollouts))
    items, _ = build_items(rollouts, run_passes(models, rollouts, settings.training), scores, settings, kl_coef=0.1)
    return Updater(models, settings, 4), items


def weights(updater):
    return {name: parameter.detach().clone() for name, parameter in updater.models.trainable().items()}


def test_a_loss_that_is_not_finite_stops_before_the_update(update):
    updater, items = update
    for name in ("advantages", "returns"):
        before = weights(updater)
        broken = [*items[:-1], type(items[-1])(items[-1].sequences, {**items[-1].tensors, name: items[-1].tensors[name] * float("nan")})]
        with pytest.raises(TrainingError, match="step 1 was stopped before its update: the loss of micro-batch 0 is nan"):
            updater.run(broken, 0)
        assert all(torch.equal(before[name], value) for name, value in weights(updater).items())
        updater.optimizer.zero_grad()


def test_an_update_that_moved_too_far_skips_the_rest(update):
    updater, items = update
    updater.config = updater.config.model_copy(update={"update_kl_limit": 1e-9})
    found = updater.run(items, 0)
    assert found["optimizer_steps"] == 1  # the first step finds the policy where it answered; the second finds it moved
    assert found["stopped_by_update_kl"] == 1


KEEP_ALL = {"checkpoint_every_steps": 1, "keep_checkpoints": 100}
GREEDY = {"kl": {"name": "fixed", "coefficient": 0.0}, "kl_budget": 2.0}


@pytest.fixture(scope="session")
def contrary(world):
    """A reward model that was trained on the opposite preference: what a run gains there is a loss."""
    train_reward_model(world, "contrary", better=BAD, worse=GOOD, seed=3)
    return str(world / "contrary")


def assert_measured_by(folder, update):
    """The saved adapter is the policy that ``update`` (from 2) measured: that of the checkpoint before it, and no other."""
    saved = load_file(folder / "adapter" / "adapter_model.safetensors")
    trained = {name: load_file(folder / "checkpoints" / f"step-{step:08d}" / "weights.safetensors") for name, step in _around(update)}
    for name, tensor in saved.items():
        key = "policy/" + name.replace(".weight", ".default.weight")
        assert torch.equal(tensor, trained["measured"][key]), name
        assert not torch.equal(tensor, trained["after"][key]), name


def _around(update):
    return (("measured", update - 1), ("after", update))


def unbounded(world, name, **changes):
    """The history and last KL of a run that nothing stops: where its trajectory goes depends on the processor's roundings."""
    result = run_ppo(config(world, **{**changes, **GREEDY, "kl_budget": None}), world / "start", world / name)
    return result.history, result.metrics["last_kl"]


def test_over_the_kl_budget_the_run_hands_back_the_policy_with_the_best_held_out_reward(world, contrary):
    for rate in (5e-3, 3e-3, 1.5e-3, 1e-3):  # until one leaves its reference after a best policy that is neither the first nor the newest
        changes = {"held_out_reward_model": contrary, "training": {"learning_rate": rate, **KEEP_ALL}}
        history, _ = unbounded(world, f"free-{rate}", **changes)
        kls = [entry["kl"] for entry in history]
        bests = [max(history[:end], key=lambda entry: entry["held_out_reward"])["update"] for end in range(1, len(history))]
        ends = [end for end, best in enumerate(bests, 1) if kls[end] > 1.1 * max(kls[:end]) and 1 < best < end]
        if ends:
            break
    assert ends, "no rate tried has such a trajectory on this processor"
    end, best = ends[-1], bests[ends[-1] - 1]
    budget = (max(kls[:end]) + kls[end]) / 2
    result = run_ppo(config(world, **changes, **{**GREEDY, "kl_budget": budget}), world / "start", world / "budget")
    stopped = json.loads((world / "budget" / "result.json").read_text())["stopped"]
    assert stopped.startswith(f"KL budget: {result.metrics['last_kl']:.2f} nats per answer, ")
    assert result.metrics["last_kl"] == result.history[-1]["kl"] == kls[end] > budget
    assert result.metrics["kl"] <= budget
    assert result.metrics["updates"] == len(result.history) - 1 == end
    assert max(result.history[:-1], key=lambda entry: entry["held_out_reward"])["update"] == best
    assert_measured_by(world / "budget", best)


def test_over_the_kl_budget_after_the_last_update_only_the_newest_policy_within_it_is_handed_back(world):
    for steps in (2, 3, 4, 5):  # until the last update goes further than all before it
        changes = {"training": {"learning_rate": 5e-3, "max_steps": steps, **KEEP_ALL}}
        history, last = unbounded(world, f"free-{steps}", **changes)
        within = max(entry["kl"] for entry in history)
        if last > 1.1 * within and within > 0:
            break
    budget = (within + last) / 2
    result = run_ppo(config(world, **changes, **{**GREEDY, "kl_budget": budget}), world / "start", world / "late")
    assert [entry["stopped"] for entry in result.history] == [""] * steps
    stopped = json.loads((world / "late" / "result.json").read_text())["stopped"]
    assert stopped.startswith(f"KL budget: the last policy measures {result.metrics['last_kl']:.2f} nats per answer, ")
    assert result.metrics["kl"] <= budget < result.metrics["last_kl"] == last
    assert result.metrics["updates"] == steps
    assert_measured_by(world / "late", steps)


@pytest.mark.parametrize(("share_of_budget", "left"), [(0.5, 50), (1e-3, 0)])
def test_a_policy_over_the_budget_on_the_evaluation_prompts_goes_back_towards_the_start(live, world, share_of_budget, left):
    """The random adapter's KL falls with the square of its size: half of it has a quarter, none of it has none."""
    models, contract, prompts, settings = live
    settings = settings.model_copy(update={"training": settings.training.model_copy(update={"seed": 1})})
    run = PpoRun(models, contract, Judges(RewardModel.load(world / "reward")), prompts, None, settings)
    kept = {f"best/{name}": torch.nn.Parameter(value.detach().clone()) for name, value in models.policy.trainable().items()}
    kl = evaluate(run, prompts, reference=False).measured["kl"]
    run.config = settings.model_copy(update={"kl_budget": kl * share_of_budget})
    try:
        _, after, last_kl, stopped = measure_result(run, prompts, [{"stopped": "rewards parted", "kl": 9.0}], kept)
        assert last_kl == 9.0
        note = f"the best policy measures {kl:.2f} on the evaluation prompts: the result is the start plus {left} % of its change"
        assert stopped == f"rewards parted; {note}"
        assert after.measured["kl"] <= run.config.kl_budget
        for name, value in models.policy.trainable().items():
            if "lora_B" in name:  # starts at zero
                torch.testing.assert_close(value, kept[f"best/{name}"] * left / 100)
    finally:
        restore_best(models, kept)


def test_the_run_stops_when_the_held_out_reward_falls_and_hands_back_the_best_policy(world, contrary):
    changes = {"held_out_reward_model": contrary, "divergence": {"window": 2, "alpha": 0.2}, "kl_budget": None}
    settings = config(world, **{**STEADY, "training": STEADY["training"] | KEEP_ALL}, held_out_limit=8, **changes)
    result = run_ppo(settings, world / "start", world / "parted")
    stopped = json.loads((world / "parted" / "result.json").read_text())["stopped"]
    assert "the reward rose" in stopped
    assert "the held-out reward fell" in stopped
    best = max(result.history[:-1], key=lambda entry: entry["held_out_reward"])["update"]
    assert 1 < best < len(result.history) - 1
    assert_measured_by(world / "parted", best)


@pytest.fixture
def tools_reader(world, tmp_path):
    """The reward model under a template that shows it the tools."""
    shutil.copytree(world / "reward", tmp_path / "tools")
    (tmp_path / "tools" / "contract.json").unlink()
    template = tmp_path / "tools" / "chat_template.jinja"
    template.write_text("{% if tools %}{{ '<|im_start|>tools\n' + (tools | tojson) + '<|im_end|>\n' }}{% endif %}" + template.read_text())
    return RewardModel.load(tmp_path / "tools")


def test_the_reward_model_is_shown_the_tools_of_a_prompt(live, tools_reader):
    models, contract, prompts, settings = live
    tools = ({"type": "function", "function": {"name": "count", "parameters": {"type": "object", "properties": {}}}},)
    plain = sample(models, contract, prompts[:4], settings, update=1)
    with_tools = [replace(rollout, prompt=replace(rollout.prompt, tools=tools)) for rollout in plain]
    pairs = [
        PreferencePair(row.prompt.messages, (Message("assistant", row.text),), (Message("assistant", GOOD),), tools=tools) for row in plain
    ]
    assert score(tools_reader, with_tools) == pytest.approx(tools_reader.score_pairs(pairs)[:, 0].tolist(), abs=1e-4)
    assert not np.allclose(score(tools_reader, with_tools), score(tools_reader, plain), atol=1e-3)


def write_prompts(file, texts):
    file.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    Path(f"{file}.card.yaml").write_text(CARD)
    return str(file)


def test_a_prompt_too_long_for_a_reward_model_is_found_before_the_run(world, tmp_path):
    for name, source in (("short", "reward"), ("short_held_out", "held_out_reward")):
        shutil.copytree(world / source, tmp_path / name)
        shape = json.loads((tmp_path / name / "config.json").read_text())
        (tmp_path / name / "config.json").write_text(json.dumps(shape | {"max_position_embeddings": 64}))
    long = question("1" * 60)
    files = {
        "data": write_prompts(tmp_path / "data.jsonl", [*(question(n) for n in range(100, 104)), long]),
        "held_out": write_prompts(tmp_path / "held_out.jsonl", [question(140), long + "!", question(141)]),
    }
    message = r"1 of 5 prompts are longer than 48 tokens \(the {}'s context 64 less max_new_tokens 16\): 5 \("
    refused(world, tmp_path, DataError, message.format("reward model"), reward_model=str(tmp_path / "short"), **files)
    watched = {"held_out_reward_model": str(tmp_path / "short_held_out"), **files}
    refused(world, tmp_path, DataError, message.format("held-out reward model"), **watched)
    said = []
    display = SimpleNamespace(say=said.append, advance=lambda *_: None)
    settings = config(world, on_too_long="drop", training={"max_steps": 1, "sequences_per_step": 4}, **watched)
    run_ppo(settings, world / "start", tmp_path / "out", progress=display)
    assert said[0] == "4 prompts (1 left out: too long), 2 held out (1 left out: too long)"


def test_a_held_out_reward_that_is_not_finite_names_update_and_answer(live, world, monkeypatch):
    models, contract, prompts, settings = live
    reward, broken = (RewardModel.load(world / name) for name in ("reward", "held_out_reward"))
    monkeypatch.setattr(broken, "score_sequences", lambda rows: [0.5, float("nan"), *[0.1] * (len(rows) - 2)])
    rollouts = sample(models, contract, prompts[:4], settings, update=3)
    with pytest.raises(TrainingError, match="update 3 was stopped before its first step: the held_out_reward of answer 2 of 4 is nan"):
        measure(Judges(reward, broken), rollouts, update=3)
    with pytest.raises(TrainingError, match="the result cannot be measured: the held_out_reward of answer 2 of 4 is nan"):
        measure(Judges(reward, broken), rollouts, update=0)


def test_an_error_in_scoring_costs_nothing_that_was_trained(world, monkeypatch):
    """The reward model fails in the third update; the run goes on from the second, to the bits of a run without the failure."""
    settings = config(world, held_out_limit=2, training={"learning_rate": 2e-3, "max_steps": 3, "checkpoint_every_steps": 100})
    run_ppo(settings, world / "start", world / "smooth")
    scores, calls = RewardModel.score_sequences, []

    def fail_once(self, rows):
        calls.append(len(rows))
        if len(calls) == 3:
            raise InfrastructureError("the reward model is gone")
        return scores(self, rows)

    monkeypatch.setattr(RewardModel, "score_sequences", fail_once)
    with pytest.raises(InfrastructureError, match="is gone"):
        run_ppo(settings, world / "start", world / "rough")
    assert [folder.name for folder in (world / "rough" / "checkpoints").iterdir()] == ["step-00000002"]
    run_ppo(settings, world / "start", world / "rough")
    assert hashes(world / "rough") == hashes(world / "smooth")


def test_every_update_is_full_whatever_the_number_of_prompts(world, tmp_path):
    """32 prompts, 20 answers an update, one epoch: round(1.6) = 2 updates of 20."""
    settings = config(world, training={"max_steps": None, "epochs": 1.0, "sequences_per_step": 20})
    result = run_ppo(settings, world / "start", tmp_path / "out")
    assert [entry["answers"] for entry in result.history] == [20, 20]


def refused(world, tmp_path, error, message, **changes):
    with pytest.raises(error, match=message):
        run_ppo(config(world, **changes), world / "start", tmp_path / "out")


def test_bad_prompts_are_refused(world, tmp_path):
    refused(
        world,
        tmp_path,
        DataError,
        r"32 of 32 prompts are longer than 8 tokens .context 2048 less max_new_tokens 2040.",
        max_new_tokens=2040,
    )
    refused(world, tmp_path, DataError, "none of 32 prompts can be answered", max_new_tokens=2040, on_too_long="drop")
    (tmp_path / "both.jsonl").write_text(json.dumps({"prompt": question(105)}) + "\n" + json.dumps({"prompt": "Other?"}) + "\n")
    (tmp_path / "both.jsonl.card.yaml").write_text(CARD)
    refused(
        world,
        tmp_path,
        DataError,
        "1 of 2 held-out prompts are of dialogues that are also .*row 1 and row 6",
        held_out=str(tmp_path / "both.jsonl"),
    )


def test_prompts_come_from_pairs_too(live):
    """HH-RLHF as published: a dialogue's prompt is what both answers begin with, and ends with the person's turn."""
    _, contract, _, settings = live
    prompts, left_out = load_prompts(str(PAIRS), contract, settings.model_copy(update={"on_too_long": "drop"}), context=2048)
    with gzip.open(PAIRS, "rt", encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    assert len(prompts) + left_out == len(rows)
    for prompt in prompts:
        assert prompt.messages[-1].role == "user"
        assert prompt.messages[0].content.strip() in rows[prompt.row - 1]["chosen"]


def test_without_a_token_that_ends_a_turn_nothing_starts(world, live):
    contract = ChatContract.load(world / "start")
    contract.eos_token_ids = ()
    with pytest.raises(ContractError, match="no token that ends a turn, so no answer could end"):
        load_prompts(str(world / "prompts.jsonl"), contract, live[3], context=2048)


def test_bad_reward_models_are_refused(world, tmp_path):
    same = {"held_out_reward_model": str(world / "reward")}
    refused(world, tmp_path, ConfigError, "are the same model", **same)
    shutil.copytree(world / "reward", tmp_path / "copy" / "held-out")
    refused(world, tmp_path, ConfigError, "are the same model", held_out_reward_model=str(tmp_path / "copy" / "held-out"))
    write_tiny_model(tmp_path / "other", ["quite another vocabulary"], seed=9, vocab_size=280, hidden=32)
    other = ScalarModel.load(ModelSettings(path=str(tmp_path / "other"), dtype="float32"), seed=0)
    other.save(tmp_path / "foreign", ChatContract.load(tmp_path / "other"))
    refused(world, tmp_path, ContractError, "value_model", lora=None, value_model=str(tmp_path / "foreign"))
    mute = ScalarModel.load(ModelSettings(path=str(world / "base"), dtype="float32"), seed=0)
    with torch.no_grad():
        mute.trainable()["score.weight"].zero_()
    mute.save(tmp_path / "mute", ChatContract.load(world / "base"))
    refused(
        world,
        tmp_path,
        TrainingError,
        "all 16 answers got the same reward, 0; there is nothing to learn",
        reward_model=str(tmp_path / "mute"),
    )
    scored = run_ppo(
        config(world, reward_model=str(tmp_path / "foreign"), training={"max_steps": 1}), world / "start", tmp_path / "text-only"
    )
    assert scored.metrics["updates"] == 1  # another tokenizer is no obstacle where text is scored


def test_in_full_training_the_value_may_start_from_the_reward_model(world, tmp_path):
    settings = config(world, lora=None, value_model=str(world / "reward"), training={"learning_rate": 1e-4, "max_steps": 2})
    result = run_ppo(settings, world / "start", tmp_path / "out")
    assert result.adapter is None
    load_for_inference(result.model, dtype="float32")
    assert len(result.history) == 2


COMMAND = (sys.executable, "-m", "posttrain", "ppo", "--model", "start", "--data", "prompts.jsonl", "--held-out", "held_out.jsonl")
SETTINGS = ("lora={rank: 4}", "held_out_limit=8", "dtype=float32", "max_new_tokens=16", "kl={name: adaptive, coefficient: 0.05, target: 2}")
TRAINING = ("learning_rate=2e-3", "max_steps=6", "sequences_per_step=16", "checkpoint_every_steps=1")
REWARDS = ("--reward-model", "reward", "--held-out-reward-model", "held_out_reward", "--store", "l.db", "--json")


def command(out):
    given = [*SETTINGS, *(f"training.{setting}" for setting in TRAINING)]
    return [*COMMAND, *REWARDS, "--out", out, *(part for setting in given for part in ("--set", setting))]


@pytest.fixture(scope="session")
def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def straight(world):
    """What the command prints when it is left alone."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.chdir(world)
        patch.setattr(sys, "argv", ["posttrain", *command("straight")[3:]])
        with contextlib.suppress(SystemExit):
            main()
    return printed.getvalue()


def test_the_command_prints_one_json_object(world, straight):
    answer = json.loads(straight)
    assert answer["written"] == "straight/adapter"
    assert answer["id"].startswith("adapter:")
    assert answer["metrics"]["updates"] == 6
    steps = [json.loads(line) for line in (world / "straight" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in steps if "step" in row] == list(range(1, 7))


@pytest.mark.usefixtures("straight")
def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(world, environment):
    child = subprocess.Popen(command("killed"), cwd=world, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not (world / "killed" / "checkpoints" / "step-00000002").is_dir() and time.monotonic() < until:
        assert child.poll() is None, "the run ended before it could be killed"
        time.sleep(0.005)
    time.sleep(random.uniform(0, 0.2))  # somewhere in the third update: answering, scoring or training
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    reached = max(int(folder.name[5:]) for folder in (world / "killed" / "checkpoints").glob("step-*"))
    done = subprocess.run(command("killed"), cwd=world, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert 2 <= reached < 6, "the kill did not fall into the run"
    assert hashes(world / "killed") == hashes(world / "straight")
    histories = [json.loads((world / name / "result.json").read_text())["history"] for name in ("killed", "straight")]
    assert untimed(histories[0]) == untimed(histories[1])
    for file in ("adapter/adapter_model.safetensors", "answers.jsonl"):
        assert (world / "killed" / file).read_bytes() == (world / "straight" / file).read_bytes()


@pytest.mark.usefixtures("straight")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--set", "clip_epsilon=0.3"), "belongs to a run with other settings: clip_epsilon: was 0.2, now 0.3"),
        (("--set", "kl_bugdet=3"), "did you mean 'kl_budget'?"),
        (("--reward-model", "nowhere"), "'nowhere' is no model"),
    ],
)
def test_a_mistake_prints_one_message_and_exits_2(world, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(world)
    monkeypatch.setattr(sys, "argv", ["posttrain", *command("straight")[3:], *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
    assert Path("straight/result.json").is_file()
