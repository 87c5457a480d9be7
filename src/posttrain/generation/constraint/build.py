"""From a request's constraint to a matcher: checked, compiled once, copied for every row."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from llguidance import LLMatcher, LLTokenizer

from posttrain.chat import ChatContract
from posttrain.errors import ConfigError
from posttrain.generation.constraint.calls import CallGrammar, call_parameters
from posttrain.generation.constraint.rows import GrammarConstraint
from posttrain.generation.constraint.schema import check_schema
from posttrain.generation.constraint.vocabulary import matcher_tokenizer, special_tokens
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
    asked = [constraint.kind, constraint.value, list(tools) if constraint.kind == "tool_calls" else []]
    try:
        key = json.dumps(asked, default=_plain, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"constraint {constraint.kind}: it is no JSON: {error}", hint="use JSON types only") from None
    return GrammarConstraint(_engine(contract, vocab_size).compiled(key).deep_copy())


class _Engine:
    """llguidance's tables of one tokenizer, and the grammars compiled for it."""

    def __init__(self, contract: ChatContract, vocab_size: int) -> None:
        self._contract = contract
        needed = contract.backend.get_vocab_size()
        if vocab_size < needed:
            raise ConfigError(
                f"the model has {vocab_size} output rows and the tokenizer {needed} tokens", hint="use the tokenizer of the model"
            )
        tokenizer = matcher_tokenizer(contract.backend)
        self._tokenizer = LLTokenizer(tokenizer, n_vocab=vocab_size, eos_token=list(contract.eos_token_ids))
        self._special = special_tokens(contract.backend)
        self.compiled = lru_cache(maxsize=_KEPT_GRAMMARS)(self._compile)

    def _compile(self, key: str) -> LLMatcher:
        """The matcher, at its start, of a constraint's kind, value and tools as JSON."""
        kind, value, tools = json.loads(key)
        where = f"constraint {kind}"
        if kind == "json_schema":
            schema = check_schema(_parsed(value, where) if isinstance(value, str) else value, where=where)
            return self._matcher(_schema_grammar(schema), where)
        if not isinstance(value, str) or not value.strip():
            raise ConfigError(f"{where}: its value is {value!r}", hint="give a text")
        if kind == "regex":
            return self._matcher(LLMatcher.grammar_from_regex(value), where)
        if kind == "lark":
            return self._matcher(LLMatcher.grammar_from_lark(value), where)
        if kind == "tool_calls":
            return self._calls(value, tools, where)
        raise ConfigError(f"{where} is unknown", hint="kinds are json_schema, regex, lark, tool_calls")

    def _calls(self, choice: str, tools: Sequence[Mapping[str, Any]], where: str) -> LLMatcher:
        form = self._contract.call_format
        if form is None:
            raise ConfigError(
                f"{where}: the chat template prints no tool calls", hint="use a model or template made for tools, such as 'chatml-tools'"
            )
        parameters = call_parameters(tools)
        grammar = CallGrammar(form, self._special, JSON_OPTIONS).grammar(parameters, choice)
        try:
            return self._matcher(LLMatcher.grammar_from_lark(grammar), where)
        except ConfigError:
            for name, schema in parameters.items():
                self._matcher(_schema_grammar(schema), f"tool '{name}'")
            raise

    def _matcher(self, grammar: str, where: str) -> LLMatcher:
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if error := matcher.get_error():
            raise ConfigError(f"{where}: {_shortened(error)}", hint="change what is named, or leave it out")
        return matcher


@lru_cache(maxsize=_KEPT_TOKENIZERS)
def _engine(contract: ChatContract, vocab_size: int) -> _Engine:
    return _Engine(contract, vocab_size)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is no JSON type")


def _parsed(text: str, where: str) -> Any:
    """A schema written as text."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{where}: the schema is no JSON: {error}", hint='for example {"type": "object"}') from None


def _schema_grammar(schema: Mapping[str, Any]) -> str:
    return str(LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=JSON_OPTIONS))


def _shortened(error: str) -> str:
    """An error of llguidance's on one line, what it quotes of the grammar left out."""
    lines = [line.strip() for line in error.strip().splitlines() if line.strip() and not re.match(r"\s*(\d+\s*\||\^)", line)]
    return " ".join(lines)[:300]
