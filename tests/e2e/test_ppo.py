"""PPO from the stage and from the command line, on a tiny model and real tiny reward models."""

import contextlib
import gzip
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from ppo_world import BAD, CARD, GOOD, build, config, hashes, question, train_reward_model, untimed

from posttrain.chat import ChatContract
from posttrain.cli.main import main
from posttrain.errors import ConfigError, ContractError, DataError, InfrastructureError, TrainingError
from posttrain.generation import LocalGenerator
from posttrain.models import LoraSettings, ModelSettings, ScalarModel, load_for_inference, write_tiny_model
from posttrain.models.actor_critic import ActorCritic
from posttrain.records import GenerationRequest, SamplingSettings
from posttrain.rewards import RewardModel
from posttrain.stages import run_ppo
from posttrain.stages.ppo_rollouts import load_prompts, run_passes, sample, score
from posttrain.stages.ppo_update import Updater, build_items

PAIRS = Path(__file__).parents[1] / "fixtures/data/hh_pairs.jsonl.gz"
STEADY = {
    "kl": {"name": "fixed", "coefficient": 0.2},
    "minibatches": 1,
    "epochs_per_update": 2,
    "training": {"learning_rate": 2e-3, "max_steps": 16, "sequences_per_step": 32},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    torch.set_num_threads(1)
    return build(tmp_path_factory.mktemp("ppo"))


@pytest.fixture(scope="module")
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
    reward = RewardModel.load(world / "reward")
    assert [row["after"]["reward"] for row in rows] == pytest.approx(_text_scores(reward, prompts, answers), rel=1e-4, abs=1e-4)


def _text_scores(reward, prompts, answers):
    from posttrain.records import Message

    return reward.score([(prompt.messages, (Message("assistant", answer.text),)) for prompt, answer in zip(prompts, answers, strict=True)])


@pytest.fixture(scope="module")
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


def test_over_the_kl_budget_the_run_stops_and_hands_back_a_policy_within_it(world):
    settings = config(world, kl={"name": "fixed", "coefficient": 0.0}, kl_budget=2.0, training={"learning_rate": 2e-2})
    result = run_ppo(settings, world / "start", world / "budget")
    answer = json.loads((world / "budget" / "result.json").read_text())
    assert answer["stopped"].startswith("KL budget: ")
    assert result.metrics["updates"] < 12
    assert result.metrics["kl"] <= 2.0


def test_the_run_stops_when_the_held_out_reward_falls_and_hands_back_the_best_policy(world):
    """The watched model was trained on the opposite preference: what the run gains there is a loss."""
    train_reward_model(world, "contrary", better=BAD, worse=GOOD, seed=3)
    changes = {"held_out_reward_model": str(world / "contrary"), "divergence": {"window": 2, "alpha": 0.2}, "kl_budget": None}
    settings = config(world, **STEADY, **changes)
    result = run_ppo(settings, world / "start", world / "parted")
    stopped = json.loads((world / "parted" / "result.json").read_text())["stopped"]
    assert "the reward rose" in stopped
    assert "the held-out reward fell" in stopped
    highest = max(entry["held_out_reward"] for entry in result.history)
    assert result.history[-1]["held_out_reward"] < highest
    assert result.metrics["kl"] < result.history[-1]["kl"]


def test_an_error_in_scoring_costs_nothing_that_was_trained(world, monkeypatch):
    """The reward model fails in the third update; the run goes on from the second, to the bits of a run without the failure."""
    settings = config(world, training={"learning_rate": 2e-3, "max_steps": 3, "checkpoint_every_steps": 100})
    run_ppo(settings, world / "start", world / "smooth")
    scores, calls = RewardModel.score, []

    def fail_once(self, pairs):
        calls.append(len(pairs))
        if len(calls) == 3:
            raise InfrastructureError("the reward model is gone")
        return scores(self, pairs)

    monkeypatch.setattr(RewardModel, "score", fail_once)
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
        world, tmp_path, DataError, "1 of 2 held-out prompts are also trained on; row 1 is row 6", held_out=str(tmp_path / "both.jsonl")
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
        assert prompt.messages[0].content.strip() in rows[prompt.row]["chosen"]


def test_without_a_token_that_ends_a_turn_nothing_starts(world, live):
    contract = ChatContract.load(world / "start")
    contract.eos_token_ids = ()
    with pytest.raises(ContractError, match="no token that ends a turn, so no answer could end"):
        load_prompts(str(world / "prompts.jsonl"), contract, live[3], context=2048)


def test_bad_reward_models_are_refused(world, tmp_path):
    same = {"held_out_reward_model": str(world / "reward")}
    refused(world, tmp_path, ConfigError, "are the same model", **same)
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
SETTINGS = ("lora={rank: 4}", "dtype=float32", "max_new_tokens=16", "kl={name: adaptive, coefficient: 0.05, target: 2}")
TRAINING = ("learning_rate=2e-3", "max_steps=6", "sequences_per_step=16", "checkpoint_every_steps=1")
REWARDS = ("--reward-model", "reward", "--held-out-reward-model", "held_out_reward", "--store", "l.db", "--json")


def command(out):
    given = [*SETTINGS, *(f"training.{setting}" for setting in TRAINING)]
    return [*COMMAND, *REWARDS, "--out", out, *(part for setting in given for part in ("--set", setting))]


@pytest.fixture(scope="module")
def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
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
