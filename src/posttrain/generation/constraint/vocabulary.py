"""A tokenizer as llguidance has to see it: added tokens apart from text, spaces as spaces."""

import json
import re
from typing import Any

from tokenizers import Tokenizer


def special_tokens(backend: Tokenizer) -> dict[str, int]:
    """Added tokens that no text may produce, by what they are written as: special ones, and the likes of ``<tool_call>``."""
    added = backend.get_added_tokens_decoder()
    return {token.content: i for i, token in added.items() if token.special or re.fullmatch("<.+>", token.content)}


def matcher_tokenizer(backend: Tokenizer) -> str:
    """``tokenizer.json`` for llguidance, ids unchanged.

    llguidance encodes text that a grammar fixes, and an ordinary tokenizer would make the added token of a literal ``<|im_end|>`` in it.
    So added tokens get names that no text holds; grammars name them by id. SentencePiece's word-begin sign is decoded in the one way
    llguidance reads: a replacement.
    """
    state = json.loads(backend.to_str())
    special = special_tokens(backend)
    names = {content: f"\ufdd0{i}\ufdd1" for content, i in special.items()}
    for token in state["added_tokens"]:
        if token["content"] in names:
            token.update(content=names[token["content"]], special=True)
    _rename(state["model"], names)
    decoder = state.get("decoder") or {}
    parts = [_spaces_replaced(part) for part in decoder.get("decoders", [decoder])]
    if any(part.get("type") == "Replace" for part in parts):
        state["decoder"] = {"type": "Sequence", "decoders": parts}
    return json.dumps(state)


def _rename(model: dict[str, Any], names: dict[str, str]) -> None:
    """New names in the vocabulary proper, where added tokens may stand as well."""
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(token, token): i for token, i in vocabulary.items()}
    else:
        model["vocab"] = [[names.get(token, token), score] for token, score in vocabulary]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]


def _spaces_replaced(part: dict[str, Any]) -> dict[str, Any]:
    if part.get("type") != "Metaspace":
        return part
    return {"type": "Replace", "pattern": {"String": part["replacement"]}, "content": " "}
