"""A start model made on the spot: byte-level BPE trained on the texts at hand, and a small random Llama. For trials and tests, not for
use.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from posttrain.config.files import atomic_directory
from posttrain.errors import DataError
from posttrain.models.weights import quiet_transformers

PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The ChatML template (OpenAI, 2023) without a default system turn and without tools."""


def train_tokenizer(texts: Iterable[str], *, vocab_size: int = 1024) -> Any:
    """A byte-level BPE tokenizer (every text encodes, none is unknown) with ChatML's two marks and its template.

    ``vocab_size`` is an upper bound; 256 bytes and 3 marks are always in it. Raises DataError when there is no text.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    samples = [text for text in texts if text]
    if not samples:
        raise DataError("a tokenizer cannot be trained on no text", hint="give the training texts")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=max(vocab_size, 259),
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(samples, trainer)
    make: Any = PreTrainedTokenizerFast
    wrapped = make(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END)
    wrapped.chat_template = CHATML
    return wrapped


def build_tiny_model(tokenizer: Any, seed: int, *, hidden: int = 64, layers: int = 2, heads: int = 4, max_length: int = 2048) -> Any:
    """A random float32 Llama over ``tokenizer``'s vocabulary: tied embeddings, half as many key heads as heads, MLP of 8/3 ``hidden``."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=(hidden * 8 // 3 + 15) // 16 * 16,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 2),
        max_position_embeddings=max_length,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = LlamaForCausalLM(config)
        return model.float()


def write_tiny_model(directory: str | Path, texts: Iterable[str], *, seed: int, vocab_size: int = 1024, **shape: int) -> Path:
    """Train the tokenizer, draw the model, save both as a Hugging Face folder (atomic). The same texts and seed give the same bytes."""
    tokenizer = train_tokenizer(texts, vocab_size=vocab_size)
    model = build_tiny_model(tokenizer, seed, **shape)
    with atomic_directory(directory) as folder, quiet_transformers():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return Path(directory)
