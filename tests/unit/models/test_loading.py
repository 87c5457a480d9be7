"""Folders that look like models and are none, and adapters that are damaged or another model's: refused by name, never filled in."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from posttrain.errors import ConfigError, ModelError
from posttrain.models import LoraSettings, ModelSettings, Policy, load_for_inference, merge_adapter, with_chat_template, write_tiny_model
from posttrain.models.lora import MERGE_FILE


@pytest.fixture
def folder(model_path, tmp_path):
    return shutil.copytree(model_path, tmp_path / "copy")


@pytest.fixture(scope="module")
def adapter(model_path, tmp_path_factory):
    class Contract:
        def save(self, directory):
            (directory / "contract.json").write_text("{}")

    out = tmp_path_factory.mktemp("adapter") / "adapter"
    Policy.load(ModelSettings(path=str(model_path), lora=LoraSettings(rank=2)), seed=0).save(out, Contract())
    return out


def change_weights(folder, change):
    file = folder / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


TEXTS = ["the balance of account one is 120.50", "the budget for travel is spent", "transfer refused: needs approval"] * 4
NAME = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop(NAME), f"weights are missing: {NAME}"),
        (lambda weights: weights.update({NAME: torch.zeros(3, 4)}), NAME),
        (lambda weights: weights[NAME].view(-1)[5:6].fill_(float("nan")), rf"not finite \(NaN or infinity\): {NAME}"),
    ],
    ids=["missing", "another shape", "not a number"],
)
def test_weights_that_are_not_there_are_never_drawn_at_random(folder, change, message):
    change_weights(folder, change)
    for load in (load_for_inference, lambda path: Policy.load(ModelSettings(path=str(path)), seed=0)):
        with pytest.raises(ModelError, match=message):
            load(folder)


def test_a_reward_model_is_no_policy(folder):
    change_weights(folder, lambda weights: weights.update({"score.weight": torch.zeros(1, 32)}))
    with pytest.raises(ModelError, match="is a reward model"):
        load_for_inference(folder)


def test_weights_without_a_place_are_refused(folder):
    change_weights(folder, lambda weights: weights.update({"model.layers.9.mlp.up_proj.weight": torch.zeros(1)}))
    with pytest.raises(ModelError, match=r"weights that a LlamaForCausalLM does not use: model\.layers\.9"):
        load_for_inference(folder)


def test_an_unknown_dtype_is_named(model_path):
    with pytest.raises(ModelError, match="did you mean 'float32'"):
        load_for_inference(model_path, dtype="float23")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("adapter_config.json", b'{"peft_type": "LO', r"adapter_config\.json cannot be read"),
        ("adapter_model.safetensors", b"\x08\x00", "the adapter cannot be read"),
    ],
)
def test_a_damaged_adapter_is_named(model_path, adapter, tmp_path, file, content, message):
    broken = shutil.copytree(adapter, tmp_path / "broken")
    (broken / file).write_bytes(content)
    with pytest.raises(ModelError, match=message):
        load_for_inference(model_path, broken)


def test_an_adapter_of_a_model_of_another_width_is_refused_in_one_line(adapter, tmp_path):
    wide = write_tiny_model(tmp_path / "wide", ["some words"], seed=0, vocab_size=300, hidden=64, layers=2)
    with pytest.raises(ModelError, match=r"was trained on .*, and .*wide holds other weights"):
        load_for_inference(wide, adapter)
    foreign = shutil.copytree(adapter, tmp_path / "foreign")
    (foreign / "base.json").unlink()
    with pytest.warns(RuntimeWarning), pytest.raises(ModelError, match="the adapter does not fit the model: size mismatch") as caught:
        load_for_inference(wide, foreign)
    assert "\n" not in caught.value.message


def test_an_adapter_on_another_base_of_the_same_shape_is_refused_with_both_names(model_path, adapter, tmp_path):
    other = write_tiny_model(tmp_path / "other", TEXTS, seed=2, vocab_size=300, hidden=32, layers=2)
    for use in (
        lambda: load_for_inference(other, adapter),
        lambda: Policy.load(ModelSettings(path=str(other), adapter=str(adapter)), seed=0),
        lambda: merge_adapter(other, adapter, tmp_path / "merged"),
    ):
        with pytest.raises(ModelError, match=rf"was trained on '{model_path}', and {other} holds other weights"):
            use()
    moved = shutil.copytree(model_path, tmp_path / "moved")  # the same weights at another place, and in bfloat16
    load_for_inference(moved, adapter)
    lower = load_for_inference(model_path, dtype="bfloat16")
    lower.save_pretrained(moved)
    load_for_inference(moved, adapter)


def test_the_adapter_of_another_program_warns_where_its_base_is_called_otherwise(model_path, adapter, tmp_path):
    foreign = shutil.copytree(adapter, tmp_path / "foreign")
    (foreign / "base.json").unlink()
    config = json.loads((foreign / "adapter_config.json").read_text())
    for name in (None, str(model_path), f"someone/{model_path.name}"):
        (foreign / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": name}))
        load_for_inference(model_path, foreign)
    (foreign / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "someone/else"}))
    with pytest.warns(RuntimeWarning, match="says that it was trained on 'someone/else'"):
        load_for_inference(model_path, foreign)


def test_merging_replaces_nothing_but_an_earlier_merge(model_path, adapter, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    merge_adapter(model_path, adapter, precious)  # empty: nothing is lost
    merge_adapter(model_path, adapter, precious)  # a merge: made by this command
    (precious / "config.json").unlink()
    (precious / MERGE_FILE).unlink()
    with pytest.raises(ConfigError, match="was not made by this command"):
        merge_adapter(model_path, adapter, precious)
    with pytest.raises(ConfigError, match="was not made by this command"):
        with_chat_template(model_path, "{{ messages }}", precious)
    for taken in (model_path, adapter):
        with pytest.raises(ConfigError, match=r"made of|was not made by"):
            merge_adapter(model_path, adapter, taken)
    assert json.loads((model_path / "config.json").read_text())["model_type"] == "llama"
