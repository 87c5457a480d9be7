"""Calls: written by templates, read back from turns, and the ids of an episode equal to those of the whole conversation."""

import json

import numpy as np
import pytest
from families import FAMILIES, TOOL, WITH_TOOLS, call, contract, result, tokenizer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from posttrain.chat import ChatContract, ParsedTurn, template_text
from posttrain.errors import ContractError
from posttrain.records import Demonstration, Message, ToolCall

QUESTION = Message("user", "Balance of A-17?")


def contract_with_tools(name: str) -> ChatContract:
    return shipped() if name == "chatml-tools" else contract(name)


def shipped() -> ChatContract:
    return ChatContract(tokenizer("smollm2"), template_text("chatml-tools"))


SHIPPED = shipped()
NAMES = [*WITH_TOOLS, "chatml-tools"]


def of(name: str) -> ChatContract:
    return SHIPPED if name == "chatml-tools" else contract(name)


def turn_ids(name: str, message: Message) -> list[int]:
    """Ids of the turn as training sees it, the end token included."""
    sequence = of(name).supervise(Demonstration((QUESTION, message), tools=(TOOL,)))
    return sequence.input_ids[sequence.completion_mask].tolist()


def calls_of(name: str, *arguments: dict) -> tuple[ToolCall, ...]:
    calls = [
        ToolCall("get_balance", values, f"call0000{i}" if "id" in of(name).call_format.holes else None)
        for i, values in enumerate(arguments)
    ]
    return tuple(calls)


TEXT = st.text(
    st.one_of(st.characters(codec="utf-8", exclude_categories=["Cs", "Co", "Cn"]), st.sampled_from("\"'{}[]\\\n\t <|>/é🙂")), max_size=20
)
NASTY = st.sampled_from(["</tool_call>", '<tool_call>\n{"name": "x"}', "[TOOL_CALLS]", "```", "<think>", '"}', "\\", "\u2028", "\x7f"])
LEAF = TEXT | NASTY | st.integers(-(2**53), 2**53) | st.booleans() | st.none() | st.floats(allow_nan=False, allow_infinity=False)
VALUE = st.recursive(LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=6)
ARGUMENTS = st.dictionaries(st.sampled_from(["account", "limit", "a b", "é", "x.y"]), VALUE, max_size=3)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(arguments=st.lists(ARGUMENTS, min_size=1, max_size=3))
def test_calls_written_by_the_template_are_read_back(name, arguments):
    calls = calls_of(name, *arguments[: 3 if of(name).call_format.many else 1])
    if any("tool▁" in json.dumps(values, ensure_ascii=False) for values in arguments):
        return
    assert of(name).parse_turn(turn_ids(name, Message("assistant", "", calls))) == ParsedTurn("", calls)
