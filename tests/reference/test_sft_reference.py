"""The engine's SFT loss of a packed batch equals the plain-Python one, sequence by sequence, from a stock forward pass."""

import numpy as np
import pytest
import torch
from sft_reference import sft_reference
from transformers import LlamaConfig, LlamaForCausalLM

from posttrain.models import ModelSettings, Policy, build_forest
from posttrain.objectives import sft_loss
from posttrain.records import TokenSequence


def test_packed_loss_equals_the_plain_python_sum():
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=31, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, pad_token_id=0)
    model = LlamaForCausalLM(config)
    draw = np.random.default_rng(0)
    prompt = draw.integers(1, 31, 20)
    sequences = []
    for index in range(5):
        ids = np.concatenate((prompt[: 20 - 3 * (index == 4)], draw.integers(1, 31, 4 + index))).astype(np.int32)
        sequences.append(TokenSequence(ids, draw.random(len(ids)) < 0.4, index))
    expected_sum, expected_count = 0.0, 0
    for row in sequences:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor(row.input_ids[None], dtype=torch.long)).logits[0].tolist()
        total, count = sft_reference(logits, row.input_ids.tolist(), row.completion_mask.tolist())
        expected_sum, expected_count = expected_sum + total, expected_count + count
    policy = Policy(model, ModelSettings(path="unused"), compute_dtype=torch.float32)
    out = sft_loss(policy.logprobs(build_forest(sequences), uniform=True))
    assert out.count == expected_count
    assert float(out.loss_sum.detach()) == pytest.approx(expected_sum, rel=1e-5)
