import pytest

from posttrain.config import file_hash
from posttrain.errors import DataError
from posttrain.models import train_tokenizer, write_tiny_model

TEXTS = ["alpha beta gamma", "beta gamma delta"]


def test_any_text_survives_a_round_trip():
    tokenizer = train_tokenizer(TEXTS)
    text = "alpha délta 数字 \t🙂\n<x>"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_template_is_chatml():
    rendered = train_tokenizer(TEXTS).apply_chat_template([{"role": "user", "content": "hi"}], add_generation_prompt=True, tokenize=False)
    assert rendered == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_the_same_texts_and_seed_give_the_same_files(tmp_path):
    first, second = (write_tiny_model(tmp_path / name, TEXTS, seed=5, hidden=32, layers=1) for name in "ab")
    other = write_tiny_model(tmp_path / "c", TEXTS, seed=6, hidden=32, layers=1)
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert file_hash(first / name) == file_hash(second / name)
    assert file_hash(first / "model.safetensors") != file_hash(other / "model.safetensors")


def test_no_text_is_refused():
    with pytest.raises(DataError, match="no text"):
        train_tokenizer(["", ""])
