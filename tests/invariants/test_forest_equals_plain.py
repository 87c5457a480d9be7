"""Loss and gradient of a packed forest equal those of plain Hugging Face forward passes, one a sequence."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from posttrain.models import ModelSettings, Policy, build_forest
from posttrain.records import TokenSequence

VOCABULARY = 97
EXTRA = {
    "qwen3": {"head_dim": 16},
    "mistral": {"sliding_window": 24},
    "gemma2": {
        "head_dim": 16,
        "sliding_window": 24,
        "query_pre_attn_scalar": 16,
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 3.0,
    },
    "gemma3_text": {"head_dim": 16, "sliding_window": 24, "query_pre_attn_scalar": 16},
    "granite": {"embedding_multiplier": 3.0, "attention_multiplier": 0.2, "residual_multiplier": 0.5, "logits_scaling": 4.0},
}
FAMILIES = ["llama", "qwen2", "qwen3", "mistral", "phi3", "olmo2", "gemma2", "gemma3_text", "granite"]
SHAPES = ["flat", "prompt and two answers", "three levels", "one-token nodes", "identical and prefix"]


@pytest.fixture
def exact(monkeypatch):
    """transformers rounds norms and soft-maxes to float32 whatever the input; for float64 comparisons it is made to keep float64."""
    monkeypatch.setattr(torch, "float32", torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def build_model(family, dtype):
    config = AutoConfig.for_model(
        family,
        **{
            "hidden_size": 64,
            "intermediate_size": 80,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 512,
            "tie_word_embeddings": family != "qwen2",
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            **EXTRA.get(family, {}),
        },
    )
    torch.manual_seed(0)
    # eager attention is the one that computes Gemma2's soft cap
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").to(dtype)


def build_sequences(shape):
    random = np.random.default_rng(3)

    def ids(length):
        return random.integers(3, VOCABULARY, length)

    if shape == "flat":
        rows = [(ids(length), 3) for length in (40, 9, 33, 61)]
    elif shape == "prompt and two answers":
        rows = []
        for _ in range(2):
            prompt = ids(30)
            rows += [(np.concatenate([prompt, ids(length)]), 30) for length in (20, 7)]
    elif shape == "three levels":
        rows = []
        for _ in range(2):
            report = ids(35)
            for _ in range(2):
                question = np.concatenate([report, ids(18)])
                rows += [(np.concatenate([question, ids(length)]), 53) for length in (12, 5)]
        rows = [rows[i] for i in random.permutation(len(rows))]
    elif shape == "one-token nodes":
        prompt = ids(20)
        rows = [(np.append(prompt, token), 20) for token in (5, 6, 7)]
    elif shape == "identical and prefix":
        long = ids(50)
        rows = [(long, 20), (long[:30], 25), (long, 20), (long[:49], 10)]
    return [TokenSequence(np.asarray(row, dtype=np.int32), np.arange(len(row)) >= begin, index) for index, (row, begin) in enumerate(rows)]


def plain_logprobs(model, sequences):
    found = []
    for sequence in sequences:
        ids = torch.from_numpy(sequence.input_ids.astype(np.int64))
        logprobs = model(input_ids=ids[None], use_cache=False).logits[0].to(next(model.parameters()).dtype).log_softmax(-1)
        targets = torch.from_numpy(np.flatnonzero(sequence.completion_mask))
        found.append(logprobs[targets - 1].gather(1, ids[targets, None])[:, 0])
    return torch.cat(found)


def objective(logprobs):
    """Every target has its own coefficient, so a swapped or lost one shows."""
    return (logprobs * torch.linspace(-1, 2, len(logprobs), dtype=logprobs.dtype)).sum() + logprobs.square().sum() / 10


def gradients(model):
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def relative_difference(ours, theirs):
    assert ours.keys() == theirs.keys()
    error = sum(float((ours[name].double() - theirs[name].double()).square().sum()) for name in theirs)
    return (error / sum(float(theirs[name].double().square().sum()) for name in theirs)) ** 0.5


def compare(family, shape, dtype, tolerance, *, share=True, backend=None, **settings):
    model, sequences = build_model(family, dtype), build_sequences(shape)
    expected = plain_logprobs(model, sequences)
    objective(expected).backward()
    expected_gradients = gradients(model)
    model.zero_grad()
    policy = Policy(model, ModelSettings(path="unused", **settings), compute_dtype=dtype)
    if backend:
        policy.compile(backend=backend)
    forest = build_forest(sequences, share=share)
    assert forest.is_shared == (share and shape != "flat")
    logprobs = policy.logprobs(forest)
    objective(logprobs).backward()
    torch.testing.assert_close(logprobs, expected, rtol=0, atol=float(expected.detach().abs().max()) * tolerance)
    assert relative_difference(gradients(model), expected_gradients) <= tolerance
    assert policy.layout == "forest"


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_forest_equals_one_plain_pass_a_sequence_in_float64(family, shape):
    compare(family, shape, torch.float64, 1e-10)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_forest_equals_one_plain_pass_a_sequence_in_float32(family, shape):
    compare(family, shape, torch.float32, 1e-5)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("shape", ["three levels", "identical and prefix"])
def test_unshared_pack_equals_one_plain_pass_a_sequence(shape):
    compare("gemma2", shape, torch.float64, 1e-10, share=False)


@pytest.mark.usefixtures("exact")
def test_gradient_checkpointing_changes_nothing():
    compare("llama", "three levels", torch.float64, 1e-10, gradient_checkpointing=True)


@pytest.mark.filterwarnings("ignore")  # the compiler warns about its own doings
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_layers_give_the_same(backend):
    """aot_eager traces forward and backward as the real compiler does, without its minute of C++."""
    compare("llama", "three levels", torch.float32, 1e-5, backend=backend)
