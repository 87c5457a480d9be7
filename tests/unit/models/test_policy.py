import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from posttrain.config import parse
from posttrain.errors import ConfigError, ModelError
from posttrain.models import LoraSettings, ModelSettings, Policy, build_forest, choose_dtype, load_for_inference


def load(path, **settings):
    return Policy.load(ModelSettings(path=str(path), **{"dtype": "float32", **settings}), seed=3)


def loss_of(policy, batch, **options):
    return -policy.logprobs(build_forest(batch), **options).sum()


def test_the_same_inputs_give_the_same_bits(model_path, batch):
    runs = []
    for _ in range(2):
        policy = load(model_path, lora=LoraSettings(rank=4, targets="attention+mlp"))
        loss = loss_of(policy, batch)
        loss.backward()
        runs.append((loss.item(), {name: master.grad for name, master in policy.trainable().items()}))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(runs[0][1][name], runs[1][1][name]) for name in runs[0][1])


def test_uniform_logprobs_give_the_gradients_of_the_general_ones(model_path, batch):
    found = []
    for uniform in (False, True):
        policy = load(model_path)
        loss_of(policy, batch, uniform=uniform).backward()
        found.append({name: master.grad for name, master in policy.trainable().items()})
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_bfloat16_trains_float32_masters(model_path, batch):
    exact, policy = load(model_path), load(model_path, dtype="bfloat16")
    for each in (exact, policy):
        loss_of(each, batch).backward()
        each.collect_gradients()
    masters = policy.trainable()
    assert {master.dtype for master in masters.values()} == {torch.float32}
    assert policy.model.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    assert policy.model.model.layers[0].mlp.up_proj.weight.grad is None
    assert policy.model.model.norm.weight.dtype == torch.float32
    error = sum(float((master.grad - exact.trainable()[name].grad).square().sum()) for name, master in masters.items())
    size = sum(float(master.grad.square().sum()) for master in exact.trainable().values())
    assert 0 < (error / size) ** 0.5 < 0.03  # a few times bfloat16's 2**-8
    name = "model.layers.0.mlp.up_proj.weight"
    with torch.no_grad():
        masters[name].add_(1e-4)  # below bfloat16's resolution for most weights, kept by the master
    policy.refresh()
    torch.testing.assert_close(policy.model.model.layers[0].mlp.up_proj.weight, masters[name].bfloat16(), rtol=0, atol=0)


def test_gradients_of_two_micro_batches_add_up_in_the_masters(model_path, batch):
    policy = load(model_path, dtype="bfloat16")
    grads = []
    for part in (batch[:2], batch[2:]):
        loss_of(policy, part).backward()
        policy.collect_gradients()
        grads.append({name: master.grad.clone() for name, master in policy.trainable().items()})
        for master in policy.trainable().values():
            master.grad = None
    for part in (batch[:2], batch[2:]):
        loss_of(policy, part).backward()
        policy.collect_gradients()
    for name, master in policy.trainable().items():
        assert torch.equal(master.grad, grads[0][name] + grads[1][name])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_saved_full_model_is_the_one_trained(model_path, batch, tmp_path, contract, dtype):
    policy = load(model_path, dtype=dtype)
    with torch.no_grad():
        for master in policy.trainable().values():
            master.mul_(1.01)
    policy.save(tmp_path / "out", contract)
    again = load(tmp_path / "out")
    for name, master in policy.trainable().items():
        assert torch.equal(again.trainable()[name], master)
    assert (tmp_path / "out" / "contract.json").is_file()
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float32"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_saved_adapter_loads_with_peft_alone(model_path, batch, tmp_path, contract, dtype):
    from peft import PeftModel

    policy = load(model_path, dtype=dtype, lora=LoraSettings(rank=4))
    torch.manual_seed(0)
    with torch.no_grad():
        for master in policy.trainable().values():
            master.add_(torch.randn_like(master) * 0.1)
    policy.refresh()
    policy.save(tmp_path / "adapter", contract)
    names = {file.name for file in (tmp_path / "adapter").iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "base.json", "contract.json"}
    assert {tensor.dtype for tensor in load_file(tmp_path / "adapter" / "adapter_model.safetensors").values()} == {torch.float32}
    stock = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_path), tmp_path / "adapter")
    ids = torch.from_numpy(batch[2].input_ids).long()
    expected = stock(input_ids=ids[None]).logits[0].log_softmax(-1)[19:-1].gather(1, ids[20:, None])[:, 0]
    found = policy.logprobs(build_forest(batch[2:]))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 if dtype == "float32" else 0.1)
    resumed = Policy.load(ModelSettings(path=str(model_path), adapter=str(tmp_path / "adapter"), dtype="float32"), seed=0)
    assert resumed.trainable().keys() == policy.trainable().keys()
    assert all(torch.equal(resumed.trainable()[name], master) for name, master in policy.trainable().items())


def test_lora_trains_adapters_alone_and_its_seed_repeats(model_path):
    first, second = (load(model_path, lora=LoraSettings(rank=4)) for _ in range(2))
    other = Policy.load(ModelSettings(path=str(model_path), lora=LoraSettings(rank=4), dtype="float32"), seed=4)
    assert all("lora_" in name for name in first.trainable())
    assert all(torch.equal(first.trainable()[name], second.trainable()[name]) for name in first.trainable())
    assert not all(torch.equal(first.trainable()[name], other.trainable()[name]) for name in first.trainable())


def test_lora_dropout_needs_unshared_prefixes(model_path, batch):
    policy = load(model_path, lora=LoraSettings(rank=4, dropout=0.5))
    with pytest.raises(ModelError, match="dropout"):
        policy.logprobs(build_forest(batch))
    with torch.no_grad():  # without gradients nothing is dropped
        assert torch.equal(policy.logprobs(build_forest(batch)), policy.logprobs(build_forest(batch)))
    assert policy.logprobs(build_forest(batch, share=False)).requires_grad


def config_for(family, **changes):
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    return AutoConfig.for_model(family, **{**shape, "vocab_size": 256, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, **changes})


def policy_for(config):
    torch.manual_seed(0)
    return Policy(AutoModelForCausalLM.from_config(config).float(), ModelSettings(path="-"), compute_dtype=torch.float32)


UNTESTED = {
    "mixture of experts": config_for("qwen3_moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, head_dim=8),
    "state space": AutoConfig.for_model("mamba", hidden_size=32, num_hidden_layers=2, vocab_size=256, state_size=8),
    "scaled logits": config_for("cohere", logit_scale=0.3),
    "rope that depends on length": config_for(
        "llama", max_position_embeddings=16, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    ),
}


@pytest.mark.filterwarnings("ignore")  # Mamba warns about missing kernels
@pytest.mark.parametrize("kind", UNTESTED)
def test_what_cannot_branch_runs_one_sequence_after_the_other(kind, batch):
    policy = policy_for(UNTESTED[kind])
    assert policy.layout == "sequences"
    found = policy.logprobs(build_forest(batch))
    policy.model.eval()
    expected = []
    for sequence in batch:
        ids = torch.from_numpy(sequence.input_ids).long()
        logprobs = policy.model(input_ids=ids[None], use_cache=False).logits[0].log_softmax(-1)
        expected.append(logprobs[19:-1].gather(1, ids[20:, None])[:, 0])
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-4, atol=1e-5)


def test_attention_dropout_is_refused_by_name():
    with pytest.raises(ModelError, match=r"attention_dropout 0\.1"):
        policy_for(config_for("llama", attention_dropout=0.1))


def test_a_head_that_is_not_ours_is_refused():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        config_for("qwen3_moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, head_dim=8)
    )
    model.lm_head.register_forward_hook(lambda module, inputs, output: output * 1.5)
    with pytest.raises(ModelError, match="changes its logits"):
        Policy(model, ModelSettings(path="-"), compute_dtype=torch.float32)


def test_a_bias_in_the_head_is_refused():
    with pytest.raises(ModelError, match="bias in its output head"):
        policy_for(config_for("phi"))


def test_auto_dtype_follows_the_hardware(monkeypatch):
    for has, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: {"amx_bf16": False, "avx512_bf16": has})
        assert choose_dtype("auto") == expected
    assert choose_dtype("bfloat16") == torch.bfloat16


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lora": {}, "adapter": "x"}, "not both"),
        ({"quantization": "nf4"}, "needs 'lora'"),
        ({"lora": {"rank": 0}}, "lora.rank"),
        ({"lora": {"targets": 3}}, "lora.targets"),
        ({"lora": {"rnak": 3}}, "did you mean 'rank'"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        parse(ModelSettings, {"path": "x", **settings}, where="recipe")


def test_inference_loads_the_adapter_with_the_models_own_attention(model_path, tmp_path, contract):
    policy = load(model_path, lora=LoraSettings(rank=4))
    policy.save(tmp_path / "adapter", contract)
    model = load_for_inference(model_path, tmp_path / "adapter", dtype="float32")
    assert not model.training
    ids = torch.arange(3, 12)[None]
    assert model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=2, do_sample=False).shape == (1, 11)
