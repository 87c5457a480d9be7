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
    adapter_size,
    count_parameters,
    load_for_inference,
    merge,
    merge_adapter,
    unmerge,
)
from posttrain.models.lora import find_targets


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
        with pytest.raises(ConfigError, match="exists and was not written by `posttrain models merge`"):
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
