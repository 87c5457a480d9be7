import json

import pytest

from posttrain.data import read_for_prompts, read_records
from posttrain.errors import ConfigError, DataError
from posttrain.records import (
    Demonstration,
    FeedbackEvent,
    Message,
    PreferencePair,
    PromptOnly,
    StepLabels,
    ToolCall,
    UnpairedLabel,
    VerifiableTask,
)

USER = Message(role="user", content="hi")
ANSWER = Message(role="assistant", content="hello")
WORSE = Message(role="assistant", content="what")
U, A, W = ({"role": m.role, "content": m.content} for m in (USER, ANSWER, WORSE))


def read(tmp_path, row, kind=None):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    reader = read_records(path, kind)
    (record,) = reader
    return record, reader.report.shape


@pytest.mark.parametrize(
    ("row", "shape"),
    [
        ({"messages": [U, A]}, "messages"),
        ({"messages": json.dumps([U, A])}, "messages"),
        ({"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]}, "sharegpt"),
        ({"prompt": "hi", "completion": "hello"}, "prompt_completion"),
        ({"prompt": [U], "completion": [A]}, "prompt_completion"),
        ({"instruction": "hi", "input": "", "output": "hello"}, "alpaca"),
        ({"question": "hi", "answer": "hello"}, "question_answer"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}, A]}, "messages"),
    ],
)
def test_every_way_to_write_one_demonstration_gives_the_same_messages(tmp_path, row, shape):
    record, found = read(tmp_path, row)
    assert found == shape
    assert isinstance(record, Demonstration)
    assert record.messages == (USER, ANSWER)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "hi", "chosen": "hello", "rejected": "what"},
        {"prompt": [U], "chosen": [A], "rejected": [W]},
        {"prompt": [U], "chosen": [U, A], "rejected": [U, W]},
        {"chosen": [U, A], "rejected": [U, W]},
        {"chosen": "\n\nHuman: hi\n\nAssistant: hello", "rejected": "\n\nHuman: hi\n\nAssistant: what"},
        {"chosen": "hi hello", "rejected": "hi what"},
        {
            "conversations": [{"from": "human", "value": "hi"}],
            "chosen": {"from": "gpt", "value": "hello"},
            "rejected": {"from": "gpt", "value": "what"},
        },
        {"instruction": "hi", "chosen": "hello", "rejected": "what"},
        {"input": {"messages": [U]}, "preferred_output": [A], "non_preferred_output": [W]},
    ],
)
def test_every_way_to_write_one_pair_gives_the_same_pair(tmp_path, row):
    record, _ = read(tmp_path, row)
    assert isinstance(record, PreferencePair)
    assert (record.prompt, record.chosen, record.rejected) == ((USER,), (ANSWER,), (WORSE,))


@pytest.mark.parametrize("label", [True, 1, "true", "1"])
def test_unpaired_labels_in_three_shapes(tmp_path, label):
    turns = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]
    for row in ({"prompt": "hi", "completion": "hello"}, {"messages": [U, A]}, {"conversations": turns}):
        record, _ = read(tmp_path, {**row, "label": label})
        assert isinstance(record, UnpairedLabel)
        assert (record.prompt, record.completion, record.label) == ((USER,), (ANSWER,), True)


def test_openai_tool_calls_have_their_json_arguments_parsed_and_weights_kept(tmp_path):
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2, "b": {"c": [1]}}'}}
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    turns = [
        U,
        {"role": "assistant", "tool_calls": [call], "weight": 0},
        {"role": "tool", "tool_call_id": "c1", "content": "4"},
        {**A, "weight": 1},
    ]
    record, _ = read(tmp_path, {"messages": turns, "tools": [tool]})
    assert record.messages[1] == Message(role="assistant", tool_calls=(ToolCall("add", {"a": 2, "b": {"c": [1]}}, "c1"),))
    assert record.messages[2].tool_call_id == "c1"
    assert record.tools == (tool,)
    assert [message.untrained for message in record.messages] == [False, True, False, False]


def test_sharegpt_tools_and_calls_as_json_text(tmp_path):
    row = {
        "conversations": [
            {"from": "system", "value": "Be brief."},
            {"from": "human", "value": "hi"},
            {"from": "function_call", "value": '{"name": "search", "arguments": {"q": "x"}}'},
            {"from": "observation", "value": "[1]"},
            {"from": "gpt", "value": "hello"},
        ],
        "tools": '[{"name": "search", "parameters": {}}]',
    }
    record, _ = read(tmp_path, row)
    assert [message.role for message in record.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert record.messages[2].tool_calls == (ToolCall("search", {"q": "x"}),)
    assert record.tools == ({"type": "function", "function": {"name": "search", "parameters": {}}},)


def test_alpaca_joins_instruction_and_input_and_reads_system_and_history(tmp_path):
    row = {"instruction": "Sum", "input": "1 2", "output": "3", "system": "S", "history": [["q", "a"]]}
    record, _ = read(tmp_path, row)
    assert [(m.role, m.content) for m in record.messages] == [
        ("system", "S"),
        ("user", "q"),
        ("assistant", "a"),
        ("user", "Sum\n1 2"),
        ("assistant", "3"),
    ]


@pytest.mark.parametrize(("first", "labels"), [(1, (True, False, None)), (0, (False, None, None)), (None, (True, True, True))])
def test_steps_after_the_first_mistake_are_unlabelled(tmp_path, first, labels):
    record, shape = read(tmp_path, {"input": "hi", "steps": ["a", "b", "c"], "mistake_index": first})
    assert shape == "first_mistake"
    assert isinstance(record, StepLabels)
    assert record.labels == labels


def test_stepwise_labels(tmp_path):
    record, _ = read(tmp_path, {"prompt": "hi", "completions": ["a", "b"], "labels": [True, False]})
    assert record == StepLabels((USER,), ("a", "b"), (True, False), id="rows.jsonl:1", source="rows.jsonl")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "hi", "verifier": "math", "reference": "4"},
        {"messages": [U], "ground_truth": "4", "dataset": "math"},
        {"prompt": [U], "reward_model": {"style": "rule", "ground_truth": "4"}, "data_source": "math"},
    ],
)
def test_verifiable_tasks_in_three_shapes(tmp_path, row):
    record, _ = read(tmp_path, row)
    assert isinstance(record, VerifiableTask)
    assert (record.prompt, record.verifier, record.reference) == ((USER,), "math", "4")


def test_feedback_events(tmp_path):
    row = {
        "prompt": "hi",
        "completion": "hello",
        "signal": "thumbs",
        "value": 1,
        "policy_version": "v3",
        "consent": "terms 2026",
        "created": "2026-01-01",
    }
    record, _ = read(tmp_path, row)
    assert isinstance(record, FeedbackEvent)
    assert (record.policy_version, record.consent, record.value) == ("v3", "terms 2026", 1)


def test_columns_no_shape_reads_become_metadata_and_ids_name_the_line(tmp_path):
    record, _ = read(tmp_path, {"prompt": "hi", "completion": "hello", "task": "greet", "empty": None, "metadata": {"n": 1}})
    assert record.metadata == {"task": "greet", "n": 1}
    assert (record.id, record.source) == ("rows.jsonl:1", "rows.jsonl")
    record, _ = read(tmp_path, {"prompt": "hi", "completion": "hello", "id": 7, "source": "web"})
    assert (record.id, record.source) == ("7", "web")


def test_kind_names_choose_among_shapes(tmp_path):
    row = {"prompt": "hi", "completion": "hello", "label": False}
    assert isinstance(read(tmp_path, row, "prompt_completion")[0], Demonstration)
    assert isinstance(read(tmp_path, row, "unpaired_label")[0], UnpairedLabel)
    with pytest.raises(ConfigError, match="did you mean 'demonstration'"):
        read(tmp_path, row, "demonstrations")
    with pytest.raises(DataError, match="PreferencePair was asked for"):
        read(tmp_path, row, PreferencePair)
    with pytest.raises(DataError, match="fit several shapes: prompt_completion, question_answer"):
        read(tmp_path, {"prompt": "a", "completion": "b", "question": "c", "answer": "d"})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "hi", "completion": 3}, r"rows.jsonl:1: field 'completion': is not a list of messages \(got 3\)"),
        ({"messages": [U, {"role": "asistant", "content": "x"}]}, r"field 'messages\[1\].role': is not a known role \(got 'asistant'\)"),
        ({"messages": [U, {"role": "assistant", "content": [{"type": "image_url"}]}]}, r"messages\[1\].content\[0\].*not a text part"),
        (
            {"messages": [U, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]},
            r"arguments': is a string that is not JSON",
        ),
        ({"prompt": "hi", "completion": "hello", "label": "maybe"}, "field 'label': is neither true nor false"),
        ({"chosen": [U, A], "rejected": [{"role": "user", "content": "else"}, W]}, "shares no prompt"),
        ({"input": "hi", "steps": ["a"], "mistake_index": 4}, "is not a position among 1 steps"),
        ({"prompt": "hi", "completion": "cut \ud83d"}, "half a surrogate pair"),
        ({"foo": 1}, r"the columns \(foo\) are no known shape"),
        ({"messages": [U, {**A, "weight": 0.5}]}, "is neither 0 nor 1"),
    ],
)
def test_a_bad_row_names_file_line_field_and_value(tmp_path, row, message):
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, row)
    assert caught.value.hint


ASKED = [{"prompt": "hi"}, {"prompt": [U]}, {"messages": [U]}, {"messages": [U, A]}, {"prompt": "hi", "verifier": "math", "reference": 1}]


@pytest.mark.parametrize("row", ASKED)
def test_a_prompt_alone_is_read_where_prompts_are_asked_for(tmp_path, row):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    (record,) = read_for_prompts(path)
    assert isinstance(record, PromptOnly)
    assert record.prompt == (USER,)


def test_a_prompt_alone_is_never_guessed(tmp_path):
    with pytest.raises(DataError, match="no known shape"):
        read(tmp_path, {"prompt": "hi", "chosne": "hello", "rejected": "what"})


def test_pairs_and_labels_keep_their_answers_where_prompts_are_asked_for(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "hi", "chosen": "hello", "rejected": "what"}) + "\n")
    assert isinstance(next(read_for_prompts(path)), PreferencePair)


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        ({"prompt": "a", "chosne": "b", "rejected": "c"}, "'preference' lacks only 'chosen' (is 'chosne' it?); fill or rename the column"),
        ({"prompt": "a", "chosen": "b", "rejected": None}, "'preference' lacks only 'rejected' (null here); fill or rename the column"),
        ({"chosen": "b"}, "'preference' lacks only 'rejected'; fill or rename the column"),
        ({"instruction": "a", "outptu": "b"}, "'alpaca' lacks only 'output' (is 'outptu' it?); fill or rename the column"),
        ({"prompt": "a", "steps": ["b"]}, "'steps' lacks only 'labels'; fill or rename the column"),
    ],
)
def test_an_unknown_row_is_told_the_nearest_shape_and_what_it_lacks(tmp_path, row, hint):
    with pytest.raises(DataError, match="no known shape") as caught:
        read(tmp_path, row)
    assert caught.value.hint == hint


def test_a_row_near_to_no_shape_is_told_their_names_alone(tmp_path):
    with pytest.raises(DataError) as caught:
        read(tmp_path, {"foo": 1}, kind="preference_pair")
    assert caught.value.hint.startswith("the shapes are: ")
    assert "alpaca," not in caught.value.hint
    assert len(caught.value.hint) < 200
