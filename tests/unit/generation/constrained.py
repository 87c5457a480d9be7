"""A tiny random model that likes to close what it opened, so that most constrained answers come to an end, and the set of schemas."""

import json
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from posttrain.chat import ChatContract, template_text
from posttrain.generation import LocalGenerator
from posttrain.models.tiny import train_tokenizer

FIXTURES = Path(__file__).parents[2] / "fixtures"
TEXTS = ['{"name": "get_balance", "arguments": {"account": "A-17", "limit": 25.5, "open": true}}', "the ledger of naïve 東京 shows 37"] * 8


def supported_schemas() -> list[dict]:
    lines = (FIXTURES / "schemas" / "supported.jsonl").read_text(encoding="utf-8").strip().split("\n")
    return [json.loads(line)["schema"] for line in lines]


def make_contract() -> ChatContract:
    return ChatContract(train_tokenizer(TEXTS, vocab_size=320), template_text("chatml-tools"))


def make_generator(contract: ChatContract, seed: int, batch_size: int = 32) -> LocalGenerator:
    """Random weights; the first hidden dimension is a constant through which quotes, brackets and digits' ends are made likelier."""
    config = LlamaConfig(
        vocab_size=contract.backend.get_vocab_size() + 3,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=contract.eos_token_ids[0],
        pad_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).float().eval()
        with torch.no_grad():
            model.lm_head.weight.normal_(std=0.3)
            model.model.embed_tokens.weight[:, 0] = 1.0
            model.lm_head.weight[:, 0] = 0.0
            for token, i in contract.backend.get_vocab().items():
                if any(sign in token for sign in '"}]') or i in contract.eos_token_ids:
                    model.lm_head.weight[i, 0] = 0.6
    return LocalGenerator(model, contract, batch_size=batch_size)


def walk(constraint, contract: ChatContract, seed: int, *, limit: int = 300) -> list[int]:
    """Tokens drawn at random among the allowed ones, as a batch takes them; closing signs are likelier. Cut at ``limit``."""
    width = contract.backend.get_vocab_size()
    generator = torch.Generator().manual_seed(seed)
    closing = [i for token, i in contract.backend.get_vocab().items() if any(sign in token for sign in '"}]')] + list(
        contract.eos_token_ids
    )
    ids = constraint.forced() if seed % 2 else []
    while len(ids) < limit:
        if constraint.is_finished:
            return [*ids, contract.eos_token_ids[0]]
        logits = torch.randn(width, generator=generator)
        logits[closing] += 4.0
        constraint.mask(logits)
        assert torch.isfinite(logits).any()
        ids.append(int(torch.multinomial(logits.softmax(0), 1, generator=generator)))
        if ids[-1] in contract.eos_token_ids:
            return ids
        constraint.push(ids[-1])
        ids += constraint.forced() if seed % 2 else []
    return ids
