import json

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from posttrain.chat import ChatContract
from posttrain.errors import ModelError
from posttrain.models import LoraSettings, ModelSettings, Policy, ScalarModel, build_forest
from posttrain.models.scalar import padding_token
from posttrain.records import Message


def load(path, *, seed=3, **settings):
    return ScalarModel.load(ModelSettings(path=str(path), **{"dtype": "float32", **settings}), seed=seed)


@pytest.fixture(scope="module")
def chat(model_path):
    return ChatContract.load(model_path)


@pytest.fixture(scope="module")
def conversations(chat):
    """Two answers each to two questions, tokenised whole."""
    rows = []
    for question in ("what is the balance of account one", "is the budget spent"):
        for answer in ("120.50", "the transfer needs approval"):
            rows.append(chat.encode_completion([Message("user", question)], [Message("assistant", answer)], index=len(rows)))
    return rows


def shake(model):
    """Move everything that trains, as training would; B of the adapters leaves zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for master in model.trainable().values():
            master.add_(torch.randn(master.shape, generator=generator) * 0.1)
    model.refresh()


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=4, targets="attention+mlp")])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_transformers_alone_opens_the_saved_folder_and_scores_the_same(model_path, chat, conversations, tmp_path, dtype, lora):
    model = load(model_path, dtype=dtype, lora=lora)
    shake(model)
    expected = model.rewards(build_forest(conversations)).detach()
    model.save(tmp_path / "reward", chat)
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "reward")
    batch = tokenizer.pad([{"input_ids": row.input_ids.tolist()} for row in conversations], return_tensors="pt")  # one padded batch
    with torch.no_grad():
        found = stock(**batch).logits[:, 0]
    assert stock.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 if dtype == "float32" else 0.05)
    again = load(tmp_path / "reward")
    torch.testing.assert_close(again.rewards(build_forest(conversations)), found, rtol=0, atol=1e-5)


def test_a_fresh_score_row_has_the_published_size_and_follows_the_seed(model_path):
    width = 32
    rows = [load(model_path, seed=seed).trainable()["score.weight"].detach() for seed in (0, 0, 1)]
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])
    many = torch.cat([load(model_path, seed=seed).trainable()["score.weight"].detach() for seed in range(20)])
    # 640 draws: the standard deviation's own relative error is 1 / sqrt(2 * 640) = 2.8 %, four of those are 11 %
    assert float(many.std()) == pytest.approx((width + 1) ** -0.5, rel=0.11)


def test_the_saved_row_is_kept_whatever_the_dtype_of_the_rest(model_path, chat, tmp_path):
    model = load(model_path)
    shake(model)
    model.save(tmp_path / "reward", chat)
    lowered = load(tmp_path / "reward", dtype="bfloat16", lora=LoraSettings(rank=2))
    name = next(name for name in lowered.trainable() if name.endswith("score.weight"))
    assert torch.equal(lowered.trainable()[name], model.trainable()["score.weight"])
    assert lowered.model.get_base_model().score.weight.dtype == torch.float32
    assert lowered.model.get_base_model().model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16


def test_lora_trains_the_adapters_and_the_score_row_alone(model_path, conversations):
    model = load(model_path, lora=LoraSettings(rank=4))
    assert all("lora_" in name or name.endswith("score.weight") for name in model.trainable())
    model.rewards(build_forest(conversations)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.trainable().values())


def test_bfloat16_gradients_of_pairs_differ_by_the_rounding_of_their_sides(model_path, conversations):
    """A pair's gradient is the small difference of two large ones: its relative error is theirs, times how much they cancel."""

    def gradient(dtype, weights):
        model = load(model_path, dtype=dtype)
        (model.rewards(build_forest(conversations)) * torch.tensor(weights)).sum().backward()
        model.collect_gradients()
        return torch.cat([master.grad.flatten() for master in model.trainable().values()])

    sides = ([1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0])
    pair = [1.0, -1.0, 1.0, -1.0]
    exact = [gradient("float32", weights) for weights in (*sides, pair)]
    errors = [float((gradient("bfloat16", weights) - true).norm()) for weights, true in zip((*sides, pair), exact, strict=True)]
    sizes = [float(true.norm()) for true in exact]
    assert sizes[2] < min(sizes[:2])  # the sides cancel
    assert max(errors[0] / sizes[0], errors[1] / sizes[1]) < 0.03  # a few times bfloat16's 2**-8, as for any objective
    assert errors[2] <= 1.2 * (errors[0] + errors[1])  # the pair adds no error of its own


def test_a_family_without_a_classifier_is_refused_by_name(tmp_path):
    config = AutoConfig.for_model("granite", hidden_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=64)
    config.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match=r"'granite' cannot carry a reward or value head"):
        load(tmp_path)


def test_a_classifier_of_two_labels_is_no_reward_model(model_path, chat, tmp_path):
    load(model_path).save(tmp_path / "two", chat)
    file = tmp_path / "two" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}}))
    with pytest.raises(ModelError, match="a classifier of 2 labels"):
        load(tmp_path / "two")


@pytest.mark.parametrize("settings", [{"adapter": "x"}, {"quantization": "nf4", "lora": LoraSettings()}])
def test_what_cannot_be_saved_merged_is_refused(model_path, settings):
    with pytest.raises(ModelError, match=f"takes no '{next(iter(settings))}'"):
        load(model_path, **settings)


def test_padding_is_never_what_a_conversation_ends_with(model_path):
    chat = ChatContract.load(model_path)
    ends = int(chat.encode([Message("user", "a"), Message("assistant", "b")])[-1])
    assert padding_token(chat) == chat.tokenizer.pad_token_id != ends
    chat.tokenizer.pad_token = chat.tokenizer.convert_ids_to_tokens(ends)
    assert padding_token(chat) not in (ends, *chat.eos_token_ids)


def test_an_architecture_that_cannot_branch_gives_the_same_rewards(conversations):
    config = AutoConfig.for_model(
        "qwen3_moe",
        hidden_size=32,
        intermediate_size=48,
        moe_intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
        vocab_size=300,
        pad_token_id=0,
        num_labels=1,
    )
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    expected = [model(input_ids=torch.from_numpy(row.input_ids.astype(np.int64))[None]).logits[0, 0] for row in conversations]
    scalar = ScalarModel(model, ModelSettings(path="-"), compute_dtype=torch.float32)
    assert scalar.layout == "sequences"
    torch.testing.assert_close(scalar.rewards(build_forest(conversations)), torch.stack(expected), rtol=0, atol=1e-5)


def test_a_policy_without_its_adapter_is_the_base(model_path, conversations):
    forest = build_forest(conversations)
    base = Policy.load(ModelSettings(path=str(model_path), dtype="float32"), seed=0)
    policy = Policy.load(ModelSettings(path=str(model_path), dtype="float32", lora=LoraSettings(rank=4)), seed=0)
    shake(policy)
    with torch.no_grad():
        own = policy.logprobs(forest)
        with policy.without_adapter():
            torch.testing.assert_close(policy.logprobs(forest), base.logprobs(forest), rtol=0, atol=1e-6)
        assert torch.equal(policy.logprobs(forest), own)
    assert not torch.allclose(own, base.logprobs(forest))
    with pytest.raises(ModelError, match="no adapter"), base.without_adapter():
        pass
