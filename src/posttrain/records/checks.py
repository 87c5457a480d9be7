"""What a record must satisfy before anything downstream sees it. Each check raises :class:`FieldError`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.errors import DataError
from posttrain.records.judgements import CHOICES, Comparison, Judgement, Record
from posttrain.records.messages import (
    ROLES,
    Demonstration,
    FeedbackEvent,
    Message,
    PreferencePair,
    PromptOnly,
    StepLabels,
    UnpairedLabel,
    VerifiableTask,
)

SHOWN = 80  # characters of a wrong value that an error quotes


class FieldError(DataError):
    """One field of one record is wrong. A reader adds the file and line; ``hint`` is the fix."""

    def __init__(self, field: str, problem: str, value: Any, *, fix: str) -> None:
        self.field = field
        self.problem = problem
        self.value = value
        super().__init__(f"field '{field}': {problem} (got {shown(value)})", hint=fix)


def shown(value: Any) -> str:
    """``repr`` of a value, cut to what fits on a line."""
    text = repr(value[: SHOWN + 1]) if isinstance(value, str) else repr(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def check_record(record: Record) -> None:
    """Raise FieldError unless the record is one that training, labelling or evaluation can use."""
    match record:
        case Demonstration():
            check_conversation(record.messages, "messages")
            check_answer(record.messages, "messages")
        case PreferencePair():
            check_prompt(record.prompt)
            check_completion(record.prompt, record.chosen, "chosen")
            check_completion(record.prompt, record.rejected, "rejected")
            check_preference(record)
        case UnpairedLabel() | FeedbackEvent():
            check_prompt(record.prompt)
            check_completion(record.prompt, record.completion, "completion")
            if isinstance(record, FeedbackEvent):
                check_event(record)
        case StepLabels():
            check_prompt(record.prompt)
            check_steps(record)
        case Comparison():
            check_prompt(record.prompt)
            check_comparison(record)
        case PromptOnly():
            check_prompt(record.prompt)
        case VerifiableTask():
            check_prompt(record.prompt)
            if not record.verifier:
                raise FieldError("verifier", "is empty", record.verifier, fix="name the verifier that scores this task, such as 'math'")
            if record.reference is None:
                raise FieldError("reference", "is missing", None, fix="give what the verifier compares with")


def check_conversation(messages: Sequence[Message], field: str) -> None:
    """Known roles, no empty turn, calls only by the assistant, tool results only after a call (ids matching where given)."""
    if not messages:
        raise FieldError(field, "holds no message", [], fix="give at least one message, or remove the row")
    open_ids: set[str] = set()
    answering = False
    for position, message in enumerate(messages):
        where = f"{field}[{position}]"
        if message.role not in ROLES:
            raise FieldError(f"{where}.role", "is not a known role", message.role, fix=f"use one of: {', '.join(ROLES)}")
        if message.tool_calls:
            if message.role != "assistant":
                raise FieldError(
                    f"{where}.tool_calls", f"is on a '{message.role}' message", message.role, fix="only the assistant calls tools"
                )
            open_ids = {call.id for call in message.tool_calls if call.id}
        elif not message.content.strip() and message.role != "tool":
            raise FieldError(f"{where}.content", "is empty", message.content, fix="give the text of the turn, or remove the row")
        if message.role == "tool":
            if not answering:
                raise FieldError(
                    f"{where}.role", "is a tool result with no call before it", message.role, fix="put the assistant's tool_calls first"
                )
            if message.tool_call_id and open_ids and message.tool_call_id not in open_ids:
                raise FieldError(
                    f"{where}.tool_call_id",
                    "answers no open call",
                    message.tool_call_id,
                    fix=f"calls open here: {', '.join(sorted(open_ids))}",
                )
        answering = message.role == "tool" or bool(message.tool_calls)


def check_answer(messages: Sequence[Message], field: str) -> None:
    """The last turn must be the assistant's: it is what the model learns."""
    last = messages[-1]
    if last.role != "assistant":
        raise FieldError(
            f"{field}[{len(messages) - 1}].role",
            "the last turn is not the assistant's, so nothing answers it",
            last.role,
            fix="end the conversation with the assistant's answer, or remove the row",
        )


def check_prompt(prompt: Sequence[Message]) -> None:
    """A prompt is a conversation that waits for the assistant."""
    check_conversation(prompt, "prompt")
    if prompt[-1].role not in ("user", "tool"):
        raise FieldError(
            f"prompt[{len(prompt) - 1}].role",
            "the prompt does not end with the user's or a tool's turn",
            prompt[-1].role,
            fix="move that turn to the completion",
        )


def check_completion(prompt: Sequence[Message], completion: Sequence[Message], field: str) -> None:
    """A completion continues its prompt and begins and ends with the assistant."""
    if not completion:
        raise FieldError(field, "holds no message", [], fix="give the assistant's answer, or remove the row")
    if completion[0].role != "assistant":
        raise FieldError(
            f"{field}[0].role", "a completion begins with the assistant", completion[0].role, fix="move earlier turns to the prompt"
        )
    for position, message in enumerate(completion):
        if message.untrained:
            fix = "an answer is scored whole: remove the weight, or the row"
            raise FieldError(f"{field}[{position}].weight", "is 0, and only demonstrations have turns that do not train", 0, fix=fix)
    _check_continuation(prompt, completion, field)
    check_answer(completion, field)


def _check_continuation(prompt: Sequence[Message], completion: Sequence[Message], field: str) -> None:
    try:
        check_conversation([*prompt, *completion], "")
    except FieldError as error:
        position, _, rest = error.field.removeprefix("[").partition("]")
        raise FieldError(f"{field}[{int(position) - len(prompt)}]{rest}", error.problem, error.value, fix=error.hint) from None


def check_preference(pair: PreferencePair) -> None:
    """Different completions and a probability in [0, 1]."""
    if pair.chosen == pair.rejected:
        raise FieldError(
            "rejected", "equals 'chosen'", pair.rejected[-1].content, fix="a pair without a difference teaches nothing: remove the row"
        )
    if not 0.0 <= pair.probability <= 1.0:
        raise FieldError("probability", "is not between 0 and 1", pair.probability, fix="give P(chosen is better); 1.0 is a hard label")


def check_comparison(comparison: Comparison) -> None:
    """Answers that are the assistant's (empty text is an answer), and judgements that say who, what and under which rubric."""
    for column, side in (("completion_a", comparison.a), ("completion_b", comparison.b)):
        if len(side) != 1 or side[0].tool_calls or side[0].content.strip():
            check_completion(comparison.prompt, side, column)
    if comparison.gold is not None:
        check_choice(comparison.gold, "gold")
    for position, judgement in enumerate(comparison.judgements):
        check_judgement(judgement, f"judgements[{position}]")


def check_judgement(judgement: Judgement, where: str) -> None:
    """Annotator and rubric version are said, the choice is one there is."""
    for column, value in (("annotator", judgement.annotator), ("rubric", judgement.rubric)):
        if not value.strip():
            raise FieldError(f"{where}.{column}", "is empty", value, fix="a label counts only with its annotator and its rubric's version")
    check_choice(judgement.choice, f"{where}.choice")
    if judgement.first_shown not in (None, "a", "b"):
        raise FieldError(f"{where}.first_shown", "is no side", judgement.first_shown, fix="use 'a' or 'b', or leave it out")
    if judgement.strength is not None and not (math.isfinite(judgement.strength) and judgement.strength >= 0):
        raise FieldError(f"{where}.strength", "is not a number from 0 up", judgement.strength, fix="leave it out where unknown")


def check_choice(choice: Any, field: str) -> None:
    """One of a, b, tie."""
    if choice not in CHOICES:
        raise FieldError(field, "is no choice", choice, fix="use 'a', 'b' or 'tie'; leave the judgement out where nobody decided")


def check_steps(record: StepLabels) -> None:
    """As many labels as steps, no empty step."""
    if not record.steps:
        raise FieldError("steps", "holds no step", [], fix="give the solution's steps in order")
    for position, step in enumerate(record.steps):
        if not step.strip():
            raise FieldError(f"steps[{position}]", "is empty", step, fix="remove the step and its label")
    if len(record.steps) != len(record.labels):
        raise FieldError(
            "labels", f"{len(record.labels)} labels for {len(record.steps)} steps", list(record.labels), fix="give one label a step"
        )


def check_event(event: FeedbackEvent) -> None:
    """The signal, the version that answered, the consent and the time are all said."""
    said: Mapping[str, str] = {
        "signal": event.signal,
        "policy_version": event.policy_version,
        "consent": event.consent,
        "created": event.created,
    }
    for field, value in said.items():
        if not value.strip():
            raise FieldError(field, "is empty", value, fix="feedback is used only with its signal, policy version, consent and time")
