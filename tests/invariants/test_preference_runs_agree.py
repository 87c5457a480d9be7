"""Preference runs that must agree: packed or not, whole or cut, one process or two, straight or killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_preference import build_pairs, run_kto
from tiny_run import build_policy, settings_for

from posttrain.objectives import objective_settings
from posttrain.stages.preference_loss import PreferenceLoss
from posttrain.training import Microbatch
from posttrain.training.step import accumulate, scale_gradients

PROGRAM = Path(__file__).with_name("tiny_preference.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


@pytest.fixture
def exact(monkeypatch):
    """transformers rounds norms to float32 whatever the input; for float64 comparisons it is made to keep float64."""
    monkeypatch.setattr(torch, "float32", torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def loss_and_gradient(objective, groups, share):
    policy, items = build_policy(dtype=torch.float64), build_pairs()
    microbatches = [Microbatch(n, tuple(items[i] for i in group), torch.device("cpu")) for n, group in enumerate(groups)]
    loss = PreferenceLoss(objective_settings(objective)())
    sums = accumulate(policy, microbatches, loss, settings_for(share_prefixes=share))
    gradients = [parameter.grad for parameter in policy.trainable().values()]
    scale_gradients(gradients, sums.count, 1e9)
    metrics = {name: value / sums.count for name, value in sums.metrics.items()}
    return sums.loss / sums.count, torch.cat([gradient.flatten() for gradient in gradients]), metrics


LAYOUTS = {"shared": ([range(8)], True), "8 x 1, shared": ([[i] for i in range(8)], True), "8 x 1": ([[i] for i in range(8)], False)}


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("objective", ["dpo", "orpo"])
def test_pairs_that_share_their_prompt_have_the_loss_and_gradient_of_pairs_that_do_not(objective):
    expected_loss, expected, expected_metrics = loss_and_gradient(objective, [range(8)], False)
    assert float(expected.norm()) > 0.01
    for groups, share in LAYOUTS.values():
        loss, gradient, metrics = loss_and_gradient(objective, groups, share)
        assert loss == pytest.approx(expected_loss, rel=1e-10)
        assert float((gradient - expected).norm() / expected.norm()) < 1e-10
        assert metrics == pytest.approx(expected_metrics, rel=1e-8)


def test_kto_in_two_processes_with_an_odd_number_of_answers_equals_one_process(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", PROGRAM, "kto", tmp_path / "two"]
    two = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=240, check=False)
    assert two.returncode == 0, two.stderr
    one, answer = run_kto(tmp_path / "one"), json.loads(two.stdout.splitlines()[-1])
    assert [entry["count"] for entry in one.history] == [5, 5, 5, 5, 5, 5, 4]
    assert answer["losses"] == pytest.approx([entry["loss"] for entry in one.history], abs=1e-6)
    assert answer["kl"] == pytest.approx([entry["metrics"]["kl"] for entry in one.history], abs=1e-6)
    assert max(abs(value) for value in answer["kl"]) > 0.05, "the drift was estimated"
    for name in ("answers", "mismatched"):
        assert (tmp_path / "two" / name / "logprobs.f32").read_bytes() == (tmp_path / "one" / name / "logprobs.f32").read_bytes()


def test_a_stage_killed_in_its_reference_pass_and_in_training_ends_with_the_same_bytes(tmp_path):
    done = subprocess.run([sys.executable, PROGRAM, "killed", tmp_path], env=ENVIRONMENT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    reached = json.loads(done.stdout.splitlines()[-1])["reached"]
    assert reached == sorted(reached)
    assert reached[-1] == 12
    assert 0 < reached[1] < 12, "a kill fell into the training"
    files = ("adapter/adapter_model.safetensors", "reference/answers/logprobs.f32", "result.json")
    for name in files:
        killed, straight = ((tmp_path / run / name).read_bytes() for run in ("killed", "straight"))
        assert killed == straight, name
