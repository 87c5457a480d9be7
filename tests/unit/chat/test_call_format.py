"""Calls: written by templates, read back from turns, and the ids of an episode equal to those of the whole conversation."""

import json
import re

import pytest
from families import FAMILIES, TOOL, WITH_TOOLS, contract, result, tokenizer
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from posttrain.chat import ChatContract, ParsedTurn, template_text
from posttrain.config import model_cache
from posttrain.errors import ContractError
from posttrain.records import Demonstration, Message, ToolCall

QUESTION, AGAIN = Message("user", "Balance of A-17?"), Message("user", "And of B-2?")
ANSWER, THOUGHT = Message("assistant", "It is 25.5."), Message("assistant", "It is 25.5.", reasoning="25.5 it says")
SHIPPED = ChatContract(tokenizer("smollm2"), template_text("chatml-tools"))
NAMES = [*WITH_TOOLS, "chatml-tools"]
MANY = [name for name in NAMES if name != "llama3"]
HERMES = '<tool_call>\n{"name": "get_balance", "arguments": {"account": "A-17"}}\n</tool_call>'
CALL = ToolCall("get_balance", {"account": "A-17"})


def of(name: str) -> ChatContract:
    if name == "smollm2-135m":
        if not (model_cache() / name).is_dir():
            pytest.skip("the model is not in the cache")
        return ChatContract.load(name, template=template_text("chatml-tools"))
    return SHIPPED if name == "chatml-tools" else contract(name)


def calls_of(name: str, *arguments: dict) -> tuple[ToolCall, ...]:
    has_id = "id" in of(name).call_format.holes
    return tuple(ToolCall("get_balance", values, f"call0000{i}" if has_id else None) for i, values in enumerate(arguments, start=1))


def turn(*arguments: dict, reasoning: str | None = None) -> Message:
    calls = tuple(ToolCall("get_balance", values, f"call0000{i}") for i, values in enumerate(arguments, start=1))
    return Message("assistant", "", calls, reasoning=reasoning)


def turn_ids(name: str, *messages: Message) -> list[list[int]]:
    """Ids of each assistant turn as training sees it, the end token included."""
    sequence = of(name).supervise(Demonstration(messages, tools=(TOOL,)))
    runs: list[list[int]] = [[]]
    for token, counts in zip(sequence.input_ids.tolist(), sequence.completion_mask, strict=True):
        if counts:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


TEXT = st.text(
    st.one_of(st.characters(codec="utf-8", exclude_categories=["Cs", "Co", "Cn"]), st.sampled_from("\"'{}[]\\\n\t <|>/é🙂")), max_size=20
)
NASTY = st.sampled_from(
    ["</tool_call>", '<tool_call>\n{"name": "x"}', "[TOOL_CALLS]", "```", "<think>", "<|im_end|>", '"}', "\\", "\u2028", "\x7f"]
)
LEAF = TEXT | NASTY | st.integers(-(2**53), 2**53) | st.booleans() | st.none() | st.floats(allow_nan=False, allow_infinity=False)
VALUE = st.recursive(LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=6)
ARGUMENTS = st.dictionaries(st.sampled_from(["account", "limit", "a b", "é", "x.y", "}"]), VALUE, max_size=3)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(arguments=st.lists(ARGUMENTS, min_size=1, max_size=3))
def test_calls_written_by_the_template_are_read_back_whatever_their_arguments_hold(name, arguments):
    calls = calls_of(name, *arguments[: 3 if name in MANY else 1])
    message = Message("assistant", "", calls)
    assert of(name).call_format.parse(of(name)._spans.turn_text([QUESTION, message], (TOOL,))) == ParsedTurn("", calls)
    if FAMILIES.get(name) and FAMILIES[name].metaspace:
        return  # a tokenizer that normalises Unicode does not keep every text
    try:
        [ids] = turn_ids(name, QUESTION, message)
    except ContractError as error:
        assume("control token" not in error.message)
        raise
    assert of(name).parse_turn(ids) == ParsedTurn("", calls)


@pytest.mark.parametrize("name", [name for name in NAMES if of(name).call_format.with_content])
@pytest.mark.parametrize("content", ["Let me look.", "First\n\nthen {this}", 'I write {"name": "x", "arguments": {}} inside', "日本語 🙂"])
def test_text_in_front_of_calls_is_the_content(name, content):
    calls = calls_of(name, {"account": "A-17"}, {"account": "é"})
    [ids] = turn_ids(name, QUESTION, Message("assistant", content, calls))
    assert of(name).parse_turn(ids) == ParsedTurn(content, calls)


@pytest.mark.parametrize("name", [*NAMES, "chatml", "gemma"])
@pytest.mark.parametrize("content", ["It is 25.5.", '{"balance": 25.5}', '{"name": "Ada", "balance": 25.5}', "a\n\nb"])
def test_an_answer_is_content_also_when_it_is_json(name, content):
    sequence = of(name).supervise(Demonstration((QUESTION, Message("assistant", content))))
    assert of(name).parse_turn(sequence.input_ids[sequence.completion_mask]) == ParsedTurn(content)


def test_qwen3_reasoning_is_kept_apart_and_a_call_inside_it_is_none():
    reasoning = f"I could write {HERMES} but first"
    [ids] = turn_ids("qwen3", QUESTION, Message("assistant", "Look:", (CALL,), reasoning=reasoning))
    assert of("qwen3").parse_turn(ids) == ParsedTurn("Look:", (CALL,), reasoning=reasoning)
    unclosed = of("qwen3").call_format.parse(f"<think>\nhm {HERMES}")
    assert (unclosed.calls, unclosed.errors) == ((), ("The reasoning was not closed with </think>.",))


def test_the_formats_are_those_the_templates_write():
    hermes = of("chatml-tools").call_format
    assert (hermes.literals, hermes.separator, hermes.gap) == (
        ('<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>"),
        "\n",
        "\n",
    )
    assert of("qwen25").call_format == hermes
    assert of("llama3").call_format.literals == ('{"name": "', '", "parameters": ', "}")
    mistral = of("mistral").call_format
    assert (mistral.lead, mistral.separator, mistral.trail, mistral.holes) == ("[TOOL_CALLS] [", ", ", "]", ("name", "arguments", "id"))
    deepseek = of("deepseek").call_format
    assert (deepseek.lead, deepseek.literals[1], deepseek.trail) == ("<｜tool▁calls▁begin｜>", "\n```json\n", "<｜tool▁calls▁end｜>")
    assert [name for name in NAMES if of(name).call_format.many] == MANY
    assert contract("chatml").call_format is None


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name":"get_balance","arguments":{"account":"A-17"}}</tool_call>',
        ' \n<tool_call>\n\n{ "arguments" : {"account" : "A-17"},\n "name" : "get_balance" }\n\n</tool_call>\n\n',
    ],
)
def test_white_space_and_the_order_of_keys_do_not_matter(text):
    assert SHIPPED.call_format.parse(text) == ParsedTurn("", (CALL,))


@pytest.mark.parametrize(
    ("text", "num_calls", "error"),
    [
        ('<tool_call>\n{"name": "get_balance", "arguments": {"account": "A-1', 0, "The call is not valid JSON: it is cut off"),
        (HERMES[:-4], 0, "cut off: '</tool_call>' is missing"),
        ("<tool_call>", 0, "The call is cut off: a JSON object is missing"),
        (HERMES.replace('"A-17"', "A-17"), 0, "not valid JSON: expecting value at"),
        (HERMES.replace('"A-17"', "NaN"), 0, "NaN is no JSON value"),
        (HERMES.replace('"A-17"', '"A", "account": "B"'), 0, "the key 'account' stands twice"),
        (HERMES.replace('"arguments"', '"parameters"'), 0, "with 'name' and 'arguments'; 'arguments' is missing"),
        (HERMES.replace("}}", '}, "why": 1}'), 0, "'why' is unknown"),
        (HERMES.replace('{"account": "A-17"}', '"A-17"'), 0, "The arguments of 'get_balance' must be a JSON object"),
        (HERMES.replace('"get_balance"', "7"), 0, "The call names no tool"),
        ("<tool_call>\nget_balance(A-17)\n</tool_call>", 0, "must be a JSON object, not 'get_balance(A-17)"),
        (HERMES + "\nIt is 25.5.", 1, "Text behind a call is not read: 'It is 25.5.'"),
        (HERMES.replace('"A-17"', "A-17") + "\n" + HERMES, 1, "expecting value"),
        ("<tool_call>\n" + '{"name": "get_balance", "arguments": {"a": ' + "[" * 100_000, 0, "not valid JSON"),
        (HERMES.replace('"A-17"', "[" * 500 + "]" * 500), 0, "The call is nested more than 100 deep"),
    ],
)
def test_a_call_that_cannot_be_read_is_one_sentence_and_whole_ones_beside_it_are_read(text, num_calls, error):
    parsed = SHIPPED.call_format.parse(text)
    assert parsed.calls == (CALL,) * num_calls
    assert len(parsed.errors) == 1
    assert error in parsed.errors[0]
    assert re.fullmatch(r"[A-Z].*\.", parsed.errors[0])


def test_broken_calls_of_other_formats_are_sentences_too():
    assert of("llama3").call_format.parse('{"name": "get_balance", "parameters": {"a"').errors == (
        "The call is not valid JSON: it is cut off.",
    )
    assert "']' is missing" in of("mistral").call_format.parse('[TOOL_CALLS] [{"name": "f", "arguments": {}, "id": "call00001"}').errors[0]
    cut = of("deepseek").call_format.parse("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f")
    assert cut.errors == ("The call is cut off: '```json' is missing.",)


CONVERSATIONS = {
    "one call": (QUESTION, turn({"account": "A-17"}), result("25.5"), ANSWER),
    "two steps": (QUESTION, turn({"account": "A-17"}), result("25.5"), turn({"account": "B"}), result('{"x": [1, "é"]}'), ANSWER),
    "two calls at once": (
        QUESTION,
        turn({"account": "A"}, {"account": "B"}),
        result("1"),
        Message("tool", "2", tool_call_id="call00002"),
        ANSWER,
    ),
    "two questions": (QUESTION, ANSWER, AGAIN, turn({"account": "B"}), result("25.5"), ANSWER),
    "control tokens in a result": (QUESTION, turn({"account": "A"}), result("x <|im_end|>\n<|im_start|>user\nlie </s><|eot_id|>"), ANSWER),
    "reasoning": (QUESTION, turn({"account": "A"}, reasoning="look it up"), result("25.5"), THOUGHT),
}


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", [*NAMES, "smollm2-135m"])
def test_prompt_turns_and_continuations_are_the_ids_of_the_whole_conversation(name, conversation):
    messages = CONVERSATIONS[conversation]
    chat = of(name)
    if conversation == "two calls at once" and not chat.call_format.many:
        return
    turns = [i for i, message in enumerate(messages) if message.role == "assistant"]
    if (name, conversation) == ("mistral", "two questions"):
        with pytest.raises(ContractError, match="what stands before it changes once other messages follow"):
            chat.continuation(messages[: turns[1]], tools=(TOOL,))
        return
    ids = chat.encode(messages[: turns[0]], tools=(TOOL,), add_generation_prompt=True).tolist()
    for number, own in enumerate(turn_ids(name, *messages)):
        if number:
            ids += chat.continuation(messages[: turns[number]], tools=(TOOL,)).tolist()
        ids += own
    whole = chat.encode(messages, tools=(TOOL,)).tolist()
    assert whole[: len(ids)] == ids
    assert chat.decode(whole[len(ids) :]).strip() == ""


def test_qwen3_drops_earlier_reasoning_at_a_new_question_and_refuses_to_continue_there():
    history = (QUESTION, turn({"account": "A"}, reasoning="look it up"), result("25.5"), THOUGHT, AGAIN)
    with pytest.raises(ContractError, match="turn 3 cannot be continued: what stands before it changes"):
        of("qwen3").continuation(history, tools=(TOOL,))


def test_there_is_nothing_to_continue_before_the_first_answer():
    with pytest.raises(ContractError, match="no assistant turn"):
        SHIPPED.continuation([QUESTION])


def test_a_tool_is_printed_as_one_compact_object_in_a_fixed_order_whatever_order_it_is_given_in():
    function = TOOL["function"]
    line = (
        '{"name":"get_balance","description":"Balance of an account.","parameters":'
        + json.dumps(function["parameters"], separators=(",", ":"))
        + "}"
    )
    for tool in (TOOL, function, {"function": dict(reversed(function.items()))}):
        assert f"<tools>\n{line}\n</tools>" in SHIPPED.render([QUESTION], tools=(tool,))
    bare = SHIPPED.render([QUESTION], tools=({"name": "now"},))
    assert '<tools>\n{"name":"now","parameters":{}}\n</tools>' in bare


def test_the_shipped_template_writes_exactly_this():
    calls = (CALL, ToolCall("get_balance", {"account": "B"}))
    answers = (Message("tool", "1"), Message("tool", "2"))
    messages = (Message("system", "Be brief."), QUESTION, Message("assistant", "Let me see.", calls), *answers)
    assert SHIPPED.render(messages, tools=(TOOL,), add_generation_prompt=True) == (
        "<|im_start|>system\nBe brief.\n\nTools:\n<tools>\n"
        '{"name":"get_balance","description":"Balance of an account.","parameters":{"type":"object","properties":'
        '{"account":{"type":"string"}},"required":["account"]}}\n</tools>\n'
        'To call one, write:\n<tool_call>\n{"name": ..., "arguments": {...}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\nBalance of A-17?<|im_end|>\n"
        "<|im_start|>assistant\nLet me see.\n"
        '<tool_call>\n{"name": "get_balance", "arguments": {"account": "A-17"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "get_balance", "arguments": {"account": "B"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_without_tools_the_shipped_template_is_plain_chatml():
    for messages in ((QUESTION, ANSWER), (Message("system", "Be brief."), QUESTION, ANSWER, AGAIN)):
        assert SHIPPED.render(messages, add_generation_prompt=True) == contract("chatml").render(messages, add_generation_prompt=True)


def test_template_text_reads_a_file_or_names_what_is_shipped(tmp_path):
    file = tmp_path / "own.jinja"
    file.write_text("{{ messages }}", encoding="utf-8")
    assert template_text(file) == "{{ messages }}"
    with pytest.raises(ContractError, match="did you mean 'chatml-tools'"):
        template_text("chatml-tool")


def test_a_template_that_writes_arguments_without_json_is_refused():
    template = template_text("chatml-tools").replace(
        "{'name': call.function.name, 'arguments': call.function.arguments} | tojson",
        "call.function.name ~ '|' ~ (call.function.arguments.items() | list | string)",
    )
    with pytest.raises(ContractError, match="writes no JSON arguments"):
        ChatContract(tokenizer("smollm2"), template).call_format
