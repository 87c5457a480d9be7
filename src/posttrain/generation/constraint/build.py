"""From a request's constraint to a matcher: checked, compiled once, copied for every row."""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from llguidance import LLMatcher, LLTokenizer

from posttrain.chat import ChatContract
from posttrain.errors import ConfigError
from posttrain.generation.constraint.calls import CallGrammar
from posttrain.generation.constraint.rows import GrammarConstraint
from posttrain.generation.constraint.schema import check_schema
from posttrain.records import Constraint

JSON_OPTIONS = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""One way to write each value, the one of Python's ``json.dumps`` and of templates: white space is no choice of the model's."""
_KEPT_GRAMMARS, _KEPT_TOKENIZERS = 256, 4


def build_constraint(
    constraint: Constraint, tools: Sequence[Mapping[str, Any]], contract: ChatContract, vocab_size: int
) -> GrammarConstraint:
    """The constraint of one row. ``vocab_size`` is the width of the model's logits.

    Compiled grammars and the tokenizer's tables are kept, so the second row with the same constraint costs a copy.
    Raises ConfigError for what cannot be enforced: an invalid or unsupported schema (with place and keyword), a broken pattern or grammar,
    tool calls where there are no tools or the template prints none.
    """
    engine = _engine(contract, vocab_size)
    return GrammarConstraint(engine.matcher(_grammar(constraint, tools, engine), constraint.kind))


def _grammar(constraint: Constraint, tools: Sequence[Mapping[str, Any]], engine: "_Engine") -> str:
    """llguidance's text for a constraint."""
    value, where = constraint.value, f"constraint {constraint.kind}"
    if constraint.kind == "json_schema":
        schema = check_schema(json_text(value, where) if isinstance(value, str) else value, where=where)
        return str(LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=JSON_OPTIONS))
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{where}: its value is {value!r}", hint="give a text")
    if constraint.kind == "regex":
        return str(LLMatcher.grammar_from_regex(value))
    if constraint.kind == "lark":
        return str(LLMatcher.grammar_from_lark(value))
    if constraint.kind != "tool_calls":
        raise ConfigError(f"constraint '{constraint.kind}' is unknown", hint="kinds are json_schema, regex, lark, tool_calls")
    form = engine.contract.call_format
    if form is None:
        raise ConfigError(
            f"{where}: the chat template prints no tool calls", hint="use a model or template made for tools, such as 'chatml-tools'"
        )
    return str(LLMatcher.grammar_from_lark(CallGrammar(form, engine.special, JSON_OPTIONS).grammar(tools, value)))


def json_text(text: str, where: str) -> Any:
    """A schema written as text."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{where}: the schema is no JSON: {error}", hint='for example {"type": "object"}') from None


class _Engine:
    """llguidance's tables of one tokenizer, and the grammars compiled for it."""

    def __init__(self, contract: ChatContract, vocab_size: int) -> None:
        self.contract = contract
        needed = contract.backend.get_vocab_size()
        if vocab_size < needed:
            raise ConfigError(
                f"the model has {vocab_size} output rows and the tokenizer {needed} tokens", hint="use the tokenizer of the model"
            )
        self._tokenizer = LLTokenizer(_readable(contract.backend.to_str()), n_vocab=vocab_size, eos_token=list(contract.eos_token_ids))
        added = contract.backend.get_added_tokens_decoder()
        self.special = {token.content: i for i, token in added.items() if self._tokenizer.is_special_token(i)}
        self._compiled = lru_cache(maxsize=_KEPT_GRAMMARS)(self._compile)

    def matcher(self, grammar: str, kind: str) -> LLMatcher:
        """A fresh matcher at the start of ``grammar``. Raises ConfigError for one that cannot be compiled."""
        compiled = self._compiled(grammar)
        if error := compiled.get_error():
            raise ConfigError(f"constraint {kind}: {_shortened(error)}", hint="change what is named, or leave it out")
        return compiled.deep_copy()

    def _compile(self, grammar: str) -> LLMatcher:
        return LLMatcher(self._tokenizer, grammar, log_level=0)


def _readable(tokenizer: str) -> str:
    """The tokenizer with its word-begin sign (SentencePiece's ``▁``) decoded in the one way llguidance reads: a replacement."""
    state = json.loads(tokenizer)
    decoder = state.get("decoder") or {}
    parts = decoder.get("decoders", [decoder])
    if any(part.get("type") == "Metaspace" for part in parts):
        parts = [
            {"type": "Replace", "pattern": {"String": part["replacement"]}, "content": " "} if part.get("type") == "Metaspace" else part
            for part in parts
        ]
        state["decoder"] = {"type": "Sequence", "decoders": parts}
    return json.dumps(state)


def _shortened(error: str) -> str:
    """An error of llguidance's on one line, its trace left out."""
    lines = [line.strip() for line in error.strip().splitlines() if line.strip()]
    return " ".join(lines)[:300]


@lru_cache(maxsize=_KEPT_TOKENIZERS)
def _engine(contract: ChatContract, vocab_size: int) -> _Engine:
    return _Engine(contract, vocab_size)
