import pytest

from posttrain.records import (
    Demonstration,
    FeedbackEvent,
    FieldError,
    Message,
    PreferencePair,
    StepLabels,
    ToolCall,
    VerifiableTask,
    check_record,
)

USER = Message(role="user", content="What is 2 + 2?")
ANSWER = Message(role="assistant", content="4")
CALL = Message(role="assistant", tool_calls=(ToolCall(name="add", arguments={"a": 2, "b": 2}, id="c1"),))
RESULT = Message(role="tool", content="4", tool_call_id="c1")


def field_of(record):
    with pytest.raises(FieldError) as caught:
        check_record(record)
    assert caught.value.hint
    return caught.value.field


def test_a_tool_trajectory_passes():
    check_record(Demonstration((USER, CALL, RESULT, ANSWER)))
    check_record(Demonstration((USER, CALL)))


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ((), "messages"),
        ((USER,), "messages[0].role"),
        ((USER, Message(role="assistant", content="  ")), "messages[1].content"),
        ((USER, Message(role="robot", content="4")), "messages[1].role"),
        ((USER, RESULT, ANSWER), "messages[1].role"),
        ((USER, CALL, Message(role="tool", content="4", tool_call_id="c9"), ANSWER), "messages[2].tool_call_id"),
        ((Message(role="user", content="x", tool_calls=CALL.tool_calls), ANSWER), "messages[0].tool_calls"),
    ],
)
def test_a_wrong_conversation_names_the_field(messages, field):
    assert field_of(Demonstration(messages)) == field


def test_a_completion_may_answer_the_call_its_prompt_ends_with():
    check_record(PreferencePair((USER, CALL, RESULT), (ANSWER,), (Message(role="assistant", content="5"),)))


def test_fields_inside_a_completion_are_named_from_its_own_start():
    bad = Message(role="assistant", content="")
    assert field_of(PreferencePair((USER,), (ANSWER,), (bad,))) == "rejected[0].content"


def test_a_pair_without_difference_is_refused():
    assert field_of(PreferencePair((USER,), (ANSWER,), (ANSWER,))) == "rejected"


def test_a_prompt_must_wait_for_the_assistant():
    assert field_of(PreferencePair((USER, ANSWER), (ANSWER,), (CALL,))) == "prompt[1].role"


def test_one_label_a_step():
    check_record(StepLabels((USER,), ("a", "b"), (True, None)))
    assert field_of(StepLabels((USER,), ("a", "b"), (True,))) == "labels"


def test_tasks_and_events_say_what_they_need():
    assert field_of(VerifiableTask((USER,), "", 4)) == "verifier"
    assert field_of(FeedbackEvent((USER,), (ANSWER,), "thumbs_up", "v1", "", "2026-01-01")) == "consent"
