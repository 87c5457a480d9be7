"""Rewards of a packed forest, and their gradients, equal those of plain sequence-classification forward passes, one a sequence."""

import numpy as np
import pytest
import torch
from test_forest_equals_plain import build_model, build_sequences, exact, gradients, relative_difference  # noqa: F401 (exact: a fixture)
from transformers import AutoModelForSequenceClassification

from posttrain.models import ModelSettings, build_forest
from posttrain.models.scalar import ScalarModel

FAMILIES = ["llama", "qwen2", "qwen3", "mistral", "phi3", "olmo2", "gemma2", "gemma3_text"]  # granite has no classifier in transformers


def build_classifier(family, dtype):
    config = build_model(family, dtype).config
    config.num_labels = 1
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").to(dtype)


def objective(rewards):
    """Every reward has its own coefficient, so a swapped or lost one shows."""
    return (rewards * torch.linspace(-1, 2, len(rewards), dtype=rewards.dtype)).sum() + rewards.square().sum() / 10


def compare(family, shape, dtype, tolerance):
    model, sequences = build_classifier(family, dtype), build_sequences(shape)
    expected = torch.stack(
        [model(input_ids=torch.from_numpy(row.input_ids.astype(np.int64))[None], use_cache=False).logits[0, 0] for row in sequences]
    )
    objective(expected).backward()
    expected_gradients = gradients(model)
    model.zero_grad()
    scalar = ScalarModel(model, ModelSettings(path="unused"), compute_dtype=dtype)
    rewards = scalar.rewards(build_forest(sequences))
    objective(rewards).backward()
    torch.testing.assert_close(rewards, expected, rtol=0, atol=float(expected.detach().abs().max()) * tolerance)
    assert relative_difference(gradients(model), expected_gradients) <= tolerance


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("shape", ["three levels", "identical and prefix"])
@pytest.mark.parametrize("family", FAMILIES)
def test_rewards_equal_one_plain_pass_a_sequence_in_float64(family, shape):
    compare(family, shape, torch.float64, 1e-10)


@pytest.mark.parametrize("shape", ["prompt and two answers"])
@pytest.mark.parametrize("family", FAMILIES)
def test_rewards_equal_one_plain_pass_a_sequence_in_float32(family, shape):
    compare(family, shape, torch.float32, 1e-5)


def test_values_are_the_scores_of_the_states_before_each_target():
    model, sequences = build_classifier("llama", torch.float32), build_sequences("three levels")
    expected = []
    for row in sequences:
        states = model.model(input_ids=torch.from_numpy(row.input_ids.astype(np.int64))[None]).last_hidden_state[0]
        expected.append(model.score(states)[np.flatnonzero(row.completion_mask) - 1, 0])
    scalar = ScalarModel(model, ModelSettings(path="unused"), compute_dtype=torch.float32)
    torch.testing.assert_close(scalar.values(build_forest(sequences)), torch.cat(expected), rtol=0, atol=1e-5)
