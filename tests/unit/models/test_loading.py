"""Adapters that are damaged or another model's: one message, no traceback."""

import shutil

import pytest

from posttrain.errors import ModelError
from posttrain.models import LoraSettings, ModelSettings, Policy, load_for_inference, write_tiny_model


@pytest.fixture(scope="module")
def adapter(model_path, tmp_path_factory):
    class Contract:
        def save(self, directory):
            (directory / "contract.json").write_text("{}")

    out = tmp_path_factory.mktemp("adapter") / "adapter"
    Policy.load(ModelSettings(path=str(model_path), lora=LoraSettings(rank=2)), seed=0).save(out, Contract())
    return out


def test_an_unknown_dtype_is_named(model_path):
    with pytest.raises(ModelError, match="did you mean 'float32'"):
        load_for_inference(model_path, dtype="float23")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("adapter_config.json", b'{"peft_type": "LO', "the adapter cannot be read"),
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
    with pytest.raises(ModelError, match="the adapter does not fit the model: size mismatch") as caught:
        load_for_inference(wide, adapter)
    assert "\n" not in caught.value.message
