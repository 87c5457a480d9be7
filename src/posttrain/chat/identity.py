"""What makes two tokenizers the same: the content that turns text into ids, whatever file, order or library wrote it."""

import json
from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from posttrain.config import content_hash
from posttrain.errors import ContractError


def plain_backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """A private copy of the Rust tokenizer that never adds, cuts or pads: text in, ids and raw character offsets out.

    The post-processor is left out: it would add a BOS the template has already written, and trim offsets.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ContractError(
            f"{type(tokenizer).__name__} has no Rust backend, so its character offsets are unknown",
            hint="use a model folder with a tokenizer.json",
        )
    state = json.loads(backend.to_str())
    state.update(post_processor=None, truncation=None, padding=None)
    return Tokenizer.from_str(json.dumps(state))


def tokenizer_identity(backend: Tokenizer) -> dict[str, Any]:
    """The parts of a plain backend that decide ids, as JSON types, with every cosmetic difference removed.

    Absent, null and false settings are the same; merges are pairs; added tokens are ordered by id.
    """
    state = json.loads(backend.to_str())
    model = {key: value for key, value in state["model"].items() if value not in (None, False)}
    if "merges" in model:
        model["merges"] = [merge.split(" ") if isinstance(merge, str) else list(merge) for merge in model["merges"]]
    added = sorted(state.get("added_tokens") or [], key=lambda token: token["id"])
    return {
        "model": model,
        "added_tokens": [{key: value for key, value in token.items() if value not in (None, False)} for token in added],
        **{part: state[part] for part in ("normalizer", "pre_tokenizer", "decoder") if state.get(part)},
    }


def chat_special_tokens(tokenizer: PreTrainedTokenizerBase, template: str) -> dict[str, str]:
    """Named special tokens the template may print. Padding counts only when the template names it: training tools set it freely."""
    named = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    return {name: token for name, token in sorted(named.items()) if name != "pad_token" or "pad_token" in template}


def identity_hashes(template: str, backend: Tokenizer, special_tokens: Mapping[str, str], settings: Mapping[str, Any]) -> dict[str, str]:
    """``hash`` over everything, and the hash of each part, so that a difference can be named."""
    parts = {
        "template": content_hash(template),
        "tokenizer": content_hash(tokenizer_identity(backend)),
        "special_tokens": content_hash(dict(special_tokens)),
        "settings": content_hash(dict(settings)),
    }
    return {"hash": "chat:" + content_hash(parts), **parts}
