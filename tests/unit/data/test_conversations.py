"""What a row says in its messages: weights, calls, system prompts and tools come through whole, or are refused by name."""

import json

import pytest

from posttrain.data import read_records, write_jsonl
from posttrain.errors import DataError
from posttrain.records import ToolCall

U, A = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}


def read(tmp_path, row, kind=None):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    (record,) = read_records(path, kind)
    return record


def refusal(tmp_path, row):
    with pytest.raises(DataError) as error:
        read(tmp_path, row)
    return f"{error.value.message} {error.value.hint}"


GPT = {"from": "gpt", "value": "hello"}
WEIGHTED = [
    {"messages": [U, {**A, "weight": 0}, U, A], "system": "S"},
    {"messages": [U, {**A, "train": False}, U, {**A, "train": True}], "system": "S"},
    {"conversations": [{"from": "human", "value": "hi"}, {**GPT, "weight": 0}, U, GPT], "system_prompt": "S"},
    {"messages": [{"role": "system", "content": "S"}, U, A, U, A], "metadata": {"untrained_turns": [2]}},
]


@pytest.mark.parametrize("row", WEIGHTED)
def test_weights_belong_to_their_message_whatever_the_shape_and_the_system_column(tmp_path, row):
    record = read(tmp_path, row)
    assert [message.role for message in record.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert [message.untrained for message in record.messages] == [False, False, True, False, False]
    write_jsonl([record], tmp_path / "again.jsonl")
    (again,) = read_records(tmp_path / "again.jsonl")
    assert [message.untrained for message in again.messages] == [False, False, True, False, False]


def test_weights_count_in_completions_of_messages_too(tmp_path):
    record = read(tmp_path, {"prompt": "hi", "completion": [{**A, "weight": 0}, U, A]})
    assert [message.untrained for message in record.messages] == [False, True, False, False]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": [U, {**A, "train": "no"}]}, "neither 0 nor 1"),
        ({"messages": [U, {**A, "weight": 1, "train": False}]}, "contradicts 'train'"),
        ({"messages": [U, {"role": "assistant", "content": None, "refusal": "I cannot."}]}, "messages[1].refusal"),
        ({"messages": [{**U, "images": ["a.png"]}, A]}, "messages[0].images"),
        ({"messages": [U, A], "metadata": {"untrained_turns": [7]}}, "metadata.untrained_turns"),
        ({"prompt": "hi", "chosen": [{**A, "weight": 0}], "rejected": "no"}, "chosen[0].weight"),
    ],
)
def test_what_changes_the_meaning_of_a_message_and_is_not_read_is_refused(tmp_path, row, said):
    assert said in refusal(tmp_path, row)


def test_keys_that_change_nothing_are_passed_over(tmp_path):
    record = read(tmp_path, {"messages": [{**U, "id": 1, "timestamp": "t"}, {**A, "refusal": None, "images": []}], "untrained_turns": 5})
    assert [message.untrained for message in record.messages] == [False, False]


@pytest.mark.parametrize("key", ["arguments", "parameters", "args", "input"])
@pytest.mark.parametrize("as_text", [False, True])
def test_arguments_are_read_under_every_name_they_go_by(tmp_path, key, as_text):
    given = json.dumps({"x": 1}) if as_text else {"x": 1}
    for call in ({"name": "f", key: given}, {"type": "function", "function": {"name": "f", key: given}}):
        record = read(tmp_path, {"messages": [U, {"role": "assistant", "tool_calls": [call]}]})
        assert record.messages[1].tool_calls == (ToolCall("f", {"x": 1}),)


@pytest.mark.parametrize("call", [{"name": "f"}, {"name": "f", "arguments": None, "x": None}, {"function": {"name": "f", "arguments": ""}}])
def test_a_call_without_arguments_has_none(tmp_path, call):
    record = read(tmp_path, {"messages": [U, {"role": "assistant", "tool_calls": [call]}]})
    assert record.messages[1].tool_calls == (ToolCall("f", {}),)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ({"name": "f", "kwargs": {"x": 1}}, "kwargs"),
        ({"name": "f", "arguments": {"x": 1}, "input": {"x": 2}}, "differs from 'input'"),
        ({"name": "f", "arguments": []}, "is not an object"),
    ],
)
def test_a_call_whose_arguments_cannot_be_told_is_refused(tmp_path, call, said):
    assert said in refusal(tmp_path, {"messages": [U, {"role": "assistant", "tool_calls": [call]}]})


def test_roles_may_have_capitals_and_text_parts_may_be_empty(tmp_path):
    parts = [{"type": "text", "text": ""}, {"type": "text", "text": "hi"}]
    record = read(tmp_path, {"messages": [{"role": "User", "content": parts}, {"role": "ASSISTANT", "content": "hello"}]})
    assert [(message.role, message.content) for message in record.messages] == [("user", "hi"), ("assistant", "hello")]


SYSTEM, TOOL, OTHER = {"role": "system", "content": "S"}, {"name": "f", "parameters": {}}, {"name": "g", "parameters": {}}


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"messages": [SYSTEM, U, A], "system": "T"}, "differs from the system turn"),
        ({"prompt": [SYSTEM, U], "completion": "x", "system_prompt": "T"}, "differs from the system turn"),
        ({"messages": [U, A], "system": "S", "system_prompt": "T"}, "differs from 'system'"),
        ({"messages": [U, A], "tools": [TOOL], "functions": [OTHER]}, "differs from 'tools'"),
    ],
)
def test_two_system_prompts_or_tool_lists_that_differ_are_refused(tmp_path, columns, said):
    assert said in refusal(tmp_path, columns)


def test_system_prompts_and_tools_said_twice_alike_count_once(tmp_path):
    twice = {"system": "S ", "system_prompt": "S", "tools": json.dumps([TOOL]), "functions": [TOOL]}
    record = read(tmp_path, {"messages": [SYSTEM, U, A], **twice})
    assert [message.role for message in record.messages] == ["system", "user", "assistant"]
    assert [tool["function"] for tool in record.tools] == [TOOL]


HH = "\n\nHuman: hi\n\nAssistant: yo\n\nHuman: bye\n\nAssistant:"
SAID = [("user", "hi"), ("assistant", "yo"), ("user", "bye")]


def said(messages):
    return [(message.role, message.content) for message in messages]


@pytest.mark.parametrize("prompt", [HH, HH.replace("\n", "\r\n"), HH.lstrip(), HH.removesuffix("\n\nAssistant:")])
@pytest.mark.parametrize("repeat", [False, True])
def test_transcripts_in_a_prompt_column_are_turns_and_their_answers_go_on_with_them(tmp_path, prompt, repeat):
    begin = prompt.removesuffix("Assistant:").rstrip() + "\n\nAssistant:" if repeat else ""
    pair = read(tmp_path, {"prompt": prompt, "chosen": f"{begin} ok", "rejected": f"{begin} no\n\nHuman: why?\n\nAssistant: so"})
    assert (said(pair.prompt), said(pair.chosen)) == (SAID, [("assistant", "ok")])
    assert said(pair.rejected) == [("assistant", "no"), ("user", "why?"), ("assistant", "so")]
    assert pair.metadata["imitation"] is False
    demonstration = read(tmp_path, {"prompt": prompt, "completion": f"{begin} ok"})
    assert (said(demonstration.messages), demonstration.num_prompt_messages) == ([*SAID, ("assistant", "ok")], 3)
    label = read(tmp_path, {"prompt": prompt, "completion": f"{begin} ok", "label": 1})
    assert (said(label.prompt), said(label.completion)) == (SAID, [("assistant", "ok")])
    assert said(read(tmp_path, {"prompt": prompt}, "prompt").prompt) == SAID


def test_text_that_only_mentions_a_human_is_text(tmp_path):
    record = read(tmp_path, {"prompt": "Human: is this a transcript?", "completion": " no"})
    assert said(record.messages) == [("user", "Human: is this a transcript?"), ("assistant", " no")]


def test_the_boundary_of_prompt_and_completion_is_kept_when_a_row_is_written(tmp_path):
    first = read(tmp_path, {"prompt": [U, A, U], "completion": [A, U, A], "system": "S"})
    write_jsonl([first], tmp_path / "again.jsonl")
    (again,) = read_records(tmp_path / "again.jsonl")
    assert (again, again.num_prompt_messages) == (first, 4)
    assert "num_prompt_messages" in refusal(tmp_path, {"messages": [U, A], "num_prompt_messages": 2})
