import json

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from posttrain.config import parse, path_hash
from posttrain.errors import ConfigError, ModelError
from posttrain.models import (
    LoraSettings,
    ModelSettings,
    Policy,
    ScalarModel,
    adapter_size,
    build_forest,
    count_parameters,
    load_for_inference,
    merge,
    merge_adapter,
    unmerge,
)
from posttrain.models.lora import add_adapter, find_targets
from posttrain.records import TokenSequence


def build(family, **changes):
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = AutoConfig.for_model(family, **{**shape, "vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, **changes})
    return AutoModelForCausalLM.from_config(config).float()


def test_accounting_at_4096():
    assert adapter_size(16, 4096, 4096) == 16 * (4096 + 4096) == 131_072
    assert 4096 * 4096 == 16_777_216  # the 16.78 M it stands in for


def test_accounting_equals_what_peft_trains(model_path):
    settings = LoraSettings(rank=4, targets="attention+mlp")
    policy = Policy.load(ModelSettings(path=str(model_path), lora=settings, dtype="float32"), seed=0)
    count = count_parameters(load_for_inference(model_path), settings)
    assert count.adapter == sum(master.numel() for master in policy.trainable().values())
    # hidden 32: q 32x32, k and v 16x32, o 32x32; MLP 32 -> 96 twice and back; 2 layers
    assert count.adapter == 2 * 4 * ((32 + 32) * 2 + (16 + 32) * 2 + (96 + 32) * 3)
    assert count.full == 2 * (32 * 32 * 2 + 16 * 32 * 2 + 96 * 32 * 3)


@pytest.mark.parametrize(
    ("family", "attention", "mlp"),
    [
        ("llama", {"q_proj", "k_proj", "v_proj", "o_proj"}, {"gate_proj", "up_proj", "down_proj"}),
        ("phi3", {"qkv_proj", "o_proj"}, {"gate_up_proj", "down_proj"}),
        ("gemma2", {"q_proj", "k_proj", "v_proj", "o_proj"}, {"gate_proj", "up_proj", "down_proj"}),
    ],
)
def test_presets_follow_module_structure(family, attention, mlp):
    model = build(family)
    assert set(find_targets(model, "attention")) == attention
    assert set(find_targets(model, "attention+mlp")) == attention | mlp


def small(family):
    """Two layers of a family that is run one sequence at a time."""
    names = {
        "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "attn_pdrop": 0.0},
        "opt": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 64, "word_embed_proj_dim": 32},
        "gpt_neox": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
        "qwen3_moe": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "num_experts": 4},
    }
    rest = {"vocab_size": 64, "max_position_embeddings": 64, "attention_dropout": 0.0, "pad_token_id": 0}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **names[family], **rest)).float()


@pytest.mark.parametrize(
    ("family", "attention", "entries"),
    [
        # the attention's c_proj is named by its path, because the MLP has one too: 32 -> 96 and 32 -> 32
        ("gpt2", ["attn.c_proj", "c_attn"], (32 + 96) + (32 + 32)),
        ("opt", ["k_proj", "out_proj", "q_proj", "v_proj"], 4 * (32 + 32)),
        ("gpt_neox", ["dense", "query_key_value"], (32 + 96) + (32 + 32)),
        ("qwen3_moe", ["k_proj", "o_proj", "q_proj", "v_proj"], 2 * (32 + 32) + 2 * (32 + 16)),  # one head of keys
    ],
)
def test_families_that_name_their_layers_otherwise_train_what_is_counted(family, attention, entries):
    for targets in ("attention", "attention+mlp") if family != "qwen3_moe" else ("attention",):
        settings = LoraSettings(rank=4, targets=targets)
        count = count_parameters(small(family), settings).adapter
        adapted = add_adapter(small(family), settings, seed=0)
        assert count == sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
        if targets == "attention":
            assert find_targets(small(family), targets) == attention
            assert count == 2 * 4 * entries


def test_an_mlp_of_fused_experts_is_refused_by_name():
    with pytest.raises(ModelError, match=r"the MLP of 'qwen3_moe' takes no adapter, .* mlp\.experts\.down_proj, mlp"):
        find_targets(small("qwen3_moe"), "attention+mlp")


def test_a_gpt2_with_an_adapter_trains_and_merges(tmp_path, contract, batch):
    small("gpt2").save_pretrained(tmp_path / "gpt2")
    config = json.loads((tmp_path / "gpt2" / "config.json").read_text())
    (tmp_path / "gpt2" / "config.json").write_text(json.dumps(config | {"resid_pdrop": 0.0, "embd_pdrop": 0.0}))
    settings = ModelSettings(path=str(tmp_path / "gpt2"), lora=LoraSettings(rank=4, targets="attention+mlp"), dtype="float32")
    policy = Policy.load(settings, seed=0)
    randomise(policy)
    policy.save(tmp_path / "adapter", contract)
    ids = torch.arange(3, 30)[None]
    apart = load_for_inference(tmp_path / "gpt2", tmp_path / "adapter", dtype="float32")(input_ids=ids).logits
    together = load_for_inference(tmp_path / "gpt2", tmp_path / "adapter", dtype="float32", merge=True)(input_ids=ids).logits
    torch.testing.assert_close(together, apart, rtol=1e-3, atol=1e-3)
    reward = ScalarModel.load(settings, seed=0)
    randomise(reward)
    reward.save(tmp_path / "reward", contract)
    again = ScalarModel.load_frozen(tmp_path / "reward", dtype="float32")
    forest = build_forest([TokenSequence(np.arange(3, 20, dtype=np.int32), np.ones(17, dtype=bool), 0)])
    torch.testing.assert_close(again.rewards(forest), reward.rewards(forest), rtol=1e-3, atol=1e-3)


def test_an_unknown_target_is_named_with_the_nearest():
    with pytest.raises(ModelError, match="did you mean 'q_proj'"):
        find_targets(build("llama"), ("q_prj",))


@pytest.mark.parametrize("given", ["q_proj, v_proj", ["q_proj", "v_proj"], ("q_proj", "v_proj")])
def test_modules_are_named_by_a_list_or_by_commas(given):
    assert parse(LoraSettings, {"targets": given}, where="x").targets == ("q_proj", "v_proj")


@pytest.mark.parametrize("given", [7, "", "q_proj,,v_proj", [], {"q_proj": 1}, [1]])
def test_targets_that_are_no_names_get_one_message(given):
    with pytest.raises(ConfigError, match=r"^x: 'targets': .*accepted: attention, attention\+mlp, or module names") as caught:
        parse(LoraSettings, {"targets": given}, where="x")
    assert len(caught.value.message.splitlines()) == 1


def test_the_scale_is_alpha_over_rank():
    assert LoraSettings(rank=8).resolved_alpha / 8 == 2.0
    assert LoraSettings(rank=8, alpha=8).resolved_alpha / 8 == 1.0


def randomise(policy):
    torch.manual_seed(1)
    with torch.no_grad():
        for master in policy.trainable().values():
            master.normal_(std=0.2)


def test_merge_and_unmerge_are_inverses_and_the_base_is_restored_bit_for_bit(model_path, batch):
    policy = Policy.load(ModelSettings(path=str(model_path), lora=LoraSettings(rank=4), dtype="float32"), seed=0)
    randomise(policy)
    layer = policy.model.get_base_model().model.layers[0].self_attn.q_proj
    before = layer.base_layer.weight.detach().clone()
    ids = torch.from_numpy(batch[0].input_ids).long()[None]
    nodes = torch.tensor([[0, ids.shape[1], -1, ids.shape[1]]])
    apart = policy.model(input_ids=ids, forest_nodes=nodes, use_cache=False).logits
    originals = merge(policy.model)
    product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    torch.testing.assert_close(layer.base_layer.weight, before + 2.0 * product)  # alpha / r = 2
    torch.testing.assert_close(policy.model(input_ids=ids, forest_nodes=nodes, use_cache=False).logits, apart, rtol=1e-3, atol=1e-4)
    unmerge(policy.model, originals)
    assert torch.equal(layer.base_layer.weight, before)
    assert torch.equal(policy.model(input_ids=ids, forest_nodes=nodes, use_cache=False).logits, apart)


def test_a_merged_folder_answers_as_base_plus_adapter(model_path, tmp_path, contract):
    policy = Policy.load(ModelSettings(path=str(model_path), lora=LoraSettings(rank=4), dtype="float32"), seed=0)
    randomise(policy)
    policy.save(tmp_path / "adapter", contract)
    out = merge_adapter(model_path, tmp_path / "adapter", tmp_path / "merged")
    assert {"model.safetensors", "tokenizer.json", "contract.json"} <= {file.name for file in out.iterdir()}
    ids = torch.arange(3, 30)[None]
    both = [load_for_inference(*where, dtype="float32")(input_ids=ids).logits for where in ((out,), (model_path, tmp_path / "adapter"))]
    torch.testing.assert_close(both[0], both[1], rtol=1e-3, atol=1e-4)


def test_merging_replaces_an_earlier_merge_and_nothing_else(model_path, tmp_path, contract):
    Policy.load(ModelSettings(path=str(model_path), lora=LoraSettings(rank=4), dtype="float32"), seed=0).save(
        tmp_path / "adapter", contract
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "mine", tmp_path / "file", tmp_path / "adapter"):
        before = path_hash(place)
        with pytest.raises(ConfigError, match="is there and was not made by this command"):
            merge_adapter(model_path, tmp_path / "adapter", place)
        assert path_hash(place) == before
    (tmp_path / "empty").mkdir()
    for _ in range(2):
        merge_adapter(model_path, tmp_path / "adapter", tmp_path / "empty")
    load_for_inference(tmp_path / "empty")


def test_a_change_below_the_step_of_bfloat16_is_not_lost_by_merging(model_path, tmp_path, contract):
    policy = Policy.load(ModelSettings(path=str(model_path), lora=LoraSettings(rank=4), dtype="float32"), seed=0)
    torch.manual_seed(1)
    with torch.no_grad():
        for master in policy.trainable().values():
            master.normal_(std=0.002)  # products of about 1e-5; a weight of 0.02 has steps of 1e-4
    policy.save(tmp_path / "adapter", contract)
    base = load_for_inference(model_path, dtype="float32")
    merged = load_for_inference(model_path, tmp_path / "adapter", dtype="bfloat16", merge=True)
    layers = [(model.model.layers[0].self_attn, name) for model in (base, merged) for name in ("q_proj", "o_proj")]
    before, after = (torch.cat([getattr(*layer).weight.detach().double().flatten() for layer in some]) for some in (layers[:2], layers[2:]))
    adapters = policy.model.get_base_model().model.layers[0].self_attn
    pairs = [(adapters.q_proj.lora_A, adapters.q_proj.lora_B), (adapters.o_proj.lora_A, adapters.o_proj.lora_B)]
    change = torch.cat([2.0 * (b["default"].weight @ a["default"].weight).detach().double().flatten() for a, b in pairs])
    step = torch.finfo(torch.bfloat16).eps * before.abs().median()
    assert float(change.abs().median()) < 0.5 * float(step)
    kept = float((after - before.bfloat16().double()) @ change / (change @ change))
    assert kept == pytest.approx(1.0, abs=0.2)  # each of 2,048 weights is rounded to its own side
    assert merged.model.rotary_emb.inv_freq.dtype == torch.float32


def test_an_adapter_is_not_a_model(model_path, tmp_path, contract):
    policy = Policy.load(ModelSettings(path=str(model_path), lora=LoraSettings(rank=4), dtype="float32"), seed=0)
    policy.save(tmp_path / "adapter", contract)
    with pytest.raises(ModelError, match="is an adapter"):
        load_for_inference(tmp_path / "adapter")
    with pytest.raises(ModelError, match=r"adapter_config\.json is missing"):
        load_for_inference(model_path, model_path)


def test_4_bit_gradients_survive_an_evaluation(model_path, batch):
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="the extra qlora is not installed")
    from posttrain.models import build_forest

    policy = Policy.load(ModelSettings(path=str(model_path), lora=LoraSettings(rank=4), quantization="nf4", dtype="float32"), seed=0)
    randomise(policy)
    assert any(isinstance(module, bitsandbytes.nn.Linear4bit) for module in policy.model.modules())

    def gradients():
        for master in policy.trainable().values():
            master.grad = None
        policy.logprobs(build_forest(batch)).sum().backward()
        return {name: master.grad.clone() for name, master in policy.trainable().items()}

    before = gradients()
    policy.model.eval()
    with torch.no_grad():
        policy.logprobs(build_forest(batch))
    policy.model.train()
    after = gradients()
    assert all(before[name].any() and torch.equal(before[name], after[name]) for name in before)
    assert not isinstance(policy.model.get_base_model().lm_head, bitsandbytes.nn.Linear4bit)
    assert isinstance(policy.model.get_base_model().lm_head, nn.Linear)
