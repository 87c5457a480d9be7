import json
import logging
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForSequenceClassification, GPT2Config, GPT2LMHeadModel, MambaConfig, MambaForCausalLM

from posttrain.errors import ModelError
from posttrain.models import ModelSettings, Policy, ScalarModel, add_model, build_forest, load_for_inference
from posttrain.models.inspect import adapter_parameters, describe
from posttrain.models.quantization import kernel_advice_muted
from posttrain.records import TokenSequence

UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("POSTTRAIN_HOME", str(tmp_path / "home"))


@pytest.fixture
def changed(model_path, tmp_path):
    """Makes a copy of the tiny model whose tensors a function has changed."""

    def make(change):
        folder = tmp_path / "changed"
        shutil.copytree(model_path, folder)
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return make


def everything_that_opens(folder):
    """Every way to a model's weights, as functions without arguments."""
    settings = ModelSettings(path=str(folder), dtype="float32")
    return [
        lambda: Policy.load(settings, seed=1),
        lambda: ScalarModel.load(settings, seed=1),
        lambda: load_for_inference(folder),
        lambda: describe(folder),
        lambda: adapter_parameters(folder, 4, "attention"),
        lambda: add_model(folder, name="copy"),
    ]


def reinstated(tensors):
    tensors[UP] = tensors[UP][:5].clone()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(UP), f"weights are missing: {UP}"),
        (reinstated, rf"another shape than config.json says: {UP} \(in the file \[5, 32\], by config.json \[96, 32\]\)"),
        (lambda tensors: tensors.update(extra=torch.ones(3)), "does not use: extra"),
    ],
)
def test_a_folder_whose_weights_are_not_those_of_its_configuration_is_refused_by_all_that_opens_it(changed, tmp_path, change, message):
    for use in everything_that_opens(changed(change)):
        with pytest.raises(ModelError, match=message):
            use()
    assert not (tmp_path / "home" / "models" / "copy").exists()


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_no_numbers_are_named_when_the_model_is_opened(changed, value):
    folder = changed(lambda tensors: tensors["model.norm.weight"].__setitem__(0, value))
    for use in everything_that_opens(folder)[:3]:
        with pytest.raises(ModelError, match=r"not finite \(NaN or infinity\): model.norm.weight"):
            use()


def test_a_cut_configuration_is_named_by_all_that_opens_the_folder(changed, tmp_path):
    folder = changed(lambda tensors: None)
    (folder / "config.json").write_text('{"model_type": "lla')
    for use in everything_that_opens(folder):
        with pytest.raises(ModelError, match=r"changed/config.json cannot be read"):
            use()
    (folder / "config.json").write_text('{"model_type": "wonder"}')
    for use in everything_that_opens(folder):
        with pytest.raises(ModelError, match=r"wonder"):
            use()
    assert not (tmp_path / "home" / "models" / "copy").exists()


def test_a_reward_model_is_no_policy_but_can_be_shown(model_path, tmp_path):
    config = AutoConfig.from_pretrained(model_path)
    config.num_labels, config.pad_token_id = 1, 0
    AutoModelForSequenceClassification.from_pretrained(model_path, config=config).save_pretrained(tmp_path / "reward")
    with pytest.raises(ModelError, match="is a reward model: it scores text, it writes none"):
        load_for_inference(tmp_path / "reward")
    assert describe(tmp_path / "reward")["family"] == "llama"


def test_an_untied_output_head_that_is_missing_is_refused_and_a_tied_one_is_not(changed):
    folder = changed(lambda tensors: None)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    load_for_inference(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    with pytest.raises(ModelError, match=r"weights are missing: lm_head\.weight"):
        load_for_inference(folder)


def test_buffers_that_older_versions_saved_beside_the_weights_are_no_fault(tmp_path, changed):
    load_for_inference(changed(lambda tensors: tensors.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})))
    model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, n_positions=64, vocab_size=100, attn_pdrop=0.0))
    model.save_pretrained(tmp_path / "gpt2")
    tensors = load_file(tmp_path / "gpt2" / "model.safetensors")
    tensors["transformer.h.0.attn.bias"] = torch.ones(1, 1, 64, 64).tril()
    save_file(tensors, tmp_path / "gpt2" / "model.safetensors", metadata={"format": "pt"})
    load_for_inference(tmp_path / "gpt2")


def test_a_state_space_model_is_refused_by_name(tmp_path):
    model = MambaForCausalLM(MambaConfig(hidden_size=32, num_hidden_layers=1, state_size=4, vocab_size=100))
    model.save_pretrained(tmp_path / "mamba")
    with pytest.raises(ModelError, match=r"^'mamba' has no attention that can be replaced"):
        load_for_inference(tmp_path / "mamba")


def test_a_token_without_a_row_in_the_embedding_is_named_before_it_is_looked_up(model_path):
    policy = Policy.load(ModelSettings(path=str(model_path), dtype="float32"), seed=1)
    rows = policy.model.get_input_embeddings().weight.shape[0]
    for last in (rows - 1, rows):
        forest = build_forest([TokenSequence(np.array([3, 4, last], dtype=np.int32), np.ones(3, dtype=bool), 0)])
        if last < rows:
            policy.logprobs(forest)
        else:
            with pytest.raises(ModelError, match=rf"gives token id {rows}, the embedding has {rows} rows"):
                policy.logprobs(forest)


def test_only_the_advice_on_a_4_bit_kernel_is_muted(caplog):
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    with kernel_advice_muted():
        logger.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s", "no kernels")
        logger.warning("something else")
    logger.warning("Failed to load CPU gemm_4bit_forward: when 4 bits were asked for")
    assert [record.getMessage()[:20] for record in caplog.records] == ["something else", "Failed to load CPU g"]
