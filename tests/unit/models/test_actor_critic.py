"""Policy, reference and value on one base: each is what it would be alone, and the base is there once."""

import numpy as np
import pytest
import torch
from transformers import Phi3Config, Phi3ForCausalLM

from posttrain.chat import ChatContract
from posttrain.errors import ModelError
from posttrain.generation import LocalGenerator
from posttrain.models import LoraSettings, ModelSettings, Policy, build_forest, write_tiny_model
from posttrain.models.actor_critic import ActorCritic
from posttrain.records import GenerationRequest, Message, SamplingSettings, TokenSequence

PROMPT = (Message("user", "count to 7"),)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    return write_tiny_model(folder / "tiny", [f"count to {n}: one, two, three" for n in range(20)], seed=3, vocab_size=300, hidden=32)


@pytest.fixture
def forest():
    draw = np.random.default_rng(0)
    prompt = draw.integers(3, 250, 20)
    rows = [np.concatenate((prompt, draw.integers(3, 250, length))).astype(np.int32) for length in (4, 9)]
    return build_forest([TokenSequence(row, np.arange(len(row)) >= 20) for row in rows])


def settings(start, *, lora=True, **options):
    options = {"dtype": "float32", **options}
    return ModelSettings(path=str(start), lora=LoraSettings(rank=4, targets="attention+mlp") if lora else None, **options)


def train(part, loss, *, steps=3):
    """A few Adam steps on ``loss()``; the gradients of every step."""
    optimizer, seen = torch.optim.AdamW(part.trainable().values(), lr=1e-2), []
    for _ in range(steps):
        loss().backward()
        part.collect_gradients()
        seen.append({name: parameter.grad.clone() for name, parameter in part.trainable().items()})
        optimizer.step()
        optimizer.zero_grad()
        part.refresh()
    return seen


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_the_policy_beside_value_and_reference_is_a_plain_lora_policy_bit_for_bit(start, forest, dtype, gradient_checkpointing):
    options = settings(start, dtype=dtype, gradient_checkpointing=gradient_checkpointing)
    alone, models = Policy.load(options, seed=1), ActorCritic.load(options, seed=1)

    def with_company():
        models.reference_logprobs(forest)
        models.value.values(forest).sum().backward()
        return -models.policy.logprobs(forest).sum()

    for one, other in zip(train(alone, lambda: -alone.logprobs(forest).sum()), train(models.policy, with_company), strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize("lora", [True, False])
def test_training_one_part_leaves_the_others_alone(start, forest, lora):
    models = ActorCritic.load(settings(start, lora=lora), seed=1)
    reference, values = models.reference_logprobs(forest), models.value.values(forest).detach()
    torch.testing.assert_close(models.policy.logprobs(forest).detach(), reference)
    train(models.policy, lambda: -models.policy.logprobs(forest).sum())
    moved = models.policy.logprobs(forest).detach()
    assert not torch.allclose(moved, reference)
    assert torch.equal(models.reference_logprobs(forest), reference)
    assert torch.equal(models.value.values(forest).detach(), values)
    train(models.value, lambda: (models.value.values(forest) - 3).square().sum())
    assert not torch.allclose(models.value.values(forest).detach(), values)
    assert torch.equal(models.policy.logprobs(forest).detach(), moved)
    assert torch.equal(models.reference_logprobs(forest), reference)


@pytest.mark.parametrize("lora", [True, False])
def test_in_bfloat16_the_policy_is_its_reference_before_training(start, forest, lora, tmp_path):
    """The norms' weights are not numbers of bfloat16, and neither may round them."""
    uneven = Policy.load(settings(start, lora=False), seed=1)
    with torch.no_grad():
        for name, parameter in uneven.trainable().items():
            if "norm" in name:
                parameter.add_(torch.linspace(0, 0.1, len(parameter)))
    uneven.save(tmp_path / "uneven", ChatContract.load(start))
    models = ActorCritic.load(settings(tmp_path / "uneven", lora=lora, dtype="bfloat16"), seed=1)
    assert torch.equal(models.policy.logprobs(forest).detach(), models.reference_logprobs(forest))


@pytest.mark.parametrize("lora", [True, False])
def test_a_model_with_dropout_of_its_own_is_refused(lora, tmp_path):
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 64}
    Phi3ForCausalLM(Phi3Config(**shape, pad_token_id=0, bos_token_id=1, eos_token_id=2, resid_pdrop=0.1)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"PPO needs a model without dropout, and this one has it in 2 places, first .*resid_.*\(0\.1\)"):
        ActorCritic.load(settings(tmp_path, lora=lora), seed=1)


def test_with_lora_a_value_is_zero_before_training_and_learns(start, forest):
    models = ActorCritic.load(settings(start), seed=1)
    assert not models.value.values(forest).detach().any()
    targets = forest.position_ids[forest.logit_rows].float().sin()  # both sequences' first state is one state: one value
    train(models.value, lambda: (models.value.values(forest) - targets).square().sum(), steps=80)
    assert float((models.value.values(forest).detach() - targets).abs().max()) < 0.2


def test_with_lora_the_base_is_in_memory_once(start):
    models = ActorCritic.load(settings(start), seed=1)
    plain = Policy.load(settings(start, lora=False), seed=1)
    held = {parameter.data_ptr(): parameter.numel() for part in (models.policy, models.value) for parameter in part.model.parameters()}
    adapters = sum(parameter.numel() for parameter in models.trainable().values()) - 32  # the score row stands apart
    assert sum(held.values()) == sum(parameter.numel() for parameter in plain.model.parameters()) + adapters


@pytest.mark.parametrize("lora", [True, False])
def test_sampling_uses_the_live_weights_and_the_reference_the_first_ones(start, forest, lora, tmp_path):
    contract = ChatContract.load(start)
    models = ActorCritic.load(settings(start, lora=lora), seed=1)
    train(models.policy, lambda: -models.policy.logprobs(forest).sum(), steps=5)
    request = GenerationRequest(PROMPT, sampling=SamplingSettings(max_new_tokens=12, temperature=1.0, seed=5))

    def answer(*, reference):
        with models.sampling(reference=reference) as stock:
            return LocalGenerator(stock, contract).generate([request])[0].token_ids

    live, first = answer(reference=False), answer(reference=True)
    assert live != first
    models.drop_value()
    models.policy.save(tmp_path / "saved", contract)
    paths = (start, tmp_path / "saved") if lora else (tmp_path / "saved", None)
    saved = LocalGenerator.load(*paths, dtype="float32", merge=False, pack=False)
    assert saved.generate([request])[0].token_ids == live
    assert LocalGenerator.load(start, dtype="float32", pack=False).generate([request])[0].token_ids == first


def test_after_sampling_the_policy_trains_on_as_before(start, forest):
    models = ActorCritic.load(settings(start), seed=1)
    before = models.policy.logprobs(forest).detach()
    with models.sampling() as stock:
        LocalGenerator(stock, ChatContract.load(start)).generate([GenerationRequest(PROMPT, sampling=SamplingSettings(max_new_tokens=3))])
    after = models.policy.logprobs(forest)
    assert torch.equal(after.detach(), before)
    after.sum().backward()
    assert all(parameter.grad is not None for parameter in models.policy.trainable().values())


def test_an_adapter_to_go_on_with_is_refused(start):
    with pytest.raises(ModelError, match="the base would not be the reference"):
        ActorCritic.load(ModelSettings(path=str(start), adapter="somewhere"), seed=1)
