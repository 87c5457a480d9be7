"""Records out: one canonical JSON row each, which the readers give back equal."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from posttrain.config.files import atomic_text
from posttrain.records import (
    Comparison,
    Demonstration,
    FeedbackEvent,
    Judgement,
    Message,
    PreferencePair,
    PromptOnly,
    Record,
    StepLabels,
    UnpairedLabel,
    VerifiableTask,
)


def write_jsonl(records: Iterable[Record | Mapping[str, Any]], path: str | Path) -> int:
    """Write records (or plain rows) as JSON Lines, streamed and atomic: the file is there whole or not at all. Returns the count."""
    count = 0
    with atomic_text(path) as stream:
        for record in records:
            row = record if isinstance(record, Mapping) else record_to_row(record)
            stream.write(json.dumps(row, ensure_ascii=False, allow_nan=False, default=str) + "\n")
            count += 1
    return count


def record_to_row(record: Record) -> dict[str, Any]:
    """The canonical row of a record: Hugging Face column names, tool calls in OpenAI's form, arguments as objects."""
    row = _columns(record)
    tools = getattr(record, "tools", ())
    if tools:
        row["tools"] = [dict(tool) for tool in tools]
    for name in ("id", "source"):
        if getattr(record, name):
            row[name] = getattr(record, name)
    if record.metadata:
        row["metadata"] = dict(record.metadata)
    return row


def _columns(record: Record) -> dict[str, Any]:
    match record:
        case Demonstration():
            row: dict[str, Any] = {"messages": _turns(record.messages)}
            return row | ({"num_prompt_messages": record.num_prompt_messages} if record.num_prompt_messages else {})
        case PreferencePair():
            row = {"prompt": _turns(record.prompt), "chosen": _turns(record.chosen), "rejected": _turns(record.rejected)}
            if record.probability != 1.0:
                row["probability"] = record.probability
            if record.margin is not None:
                row["margin"] = record.margin
            return row
        case UnpairedLabel():
            return {"prompt": _turns(record.prompt), "completion": _turns(record.completion), "label": record.label}
        case StepLabels():
            return {"prompt": _turns(record.prompt), "steps": list(record.steps), "labels": list(record.labels)}
        case PromptOnly():
            return {"prompt": _turns(record.prompt)}
        case VerifiableTask():
            return {"prompt": _turns(record.prompt), "verifier": record.verifier, "reference": record.reference}
        case Comparison():
            row = {"prompt": _turns(record.prompt), "completion_a": _turns(record.a), "completion_b": _turns(record.b)}
            row["judgements"] = [_judgement(judgement) for judgement in record.judgements]
            return row if record.gold is None else {**row, "gold": record.gold}
        case FeedbackEvent():
            row = {"prompt": _turns(record.prompt), "completion": _turns(record.completion), "signal": record.signal, "value": record.value}
            return {**row, "policy_version": record.policy_version, "consent": record.consent, "created": record.created}


def _judgement(judgement: Judgement) -> dict[str, Any]:
    row: dict[str, Any] = {"annotator": judgement.annotator, "choice": judgement.choice, "rubric": judgement.rubric}
    if judgement.strength is not None:
        row["strength"] = judgement.strength
    for name in ("first_shown", "created"):
        if getattr(judgement, name):
            row[name] = getattr(judgement, name)
    if judgement.dimensions:
        row["dimensions"] = dict(judgement.dimensions)
    return row


def _turns(messages: Iterable[Message]) -> list[dict[str, Any]]:
    return [_turn(message) for message in messages]


def _turn(message: Message) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        turn["tool_calls"] = [
            {
                **({"id": call.id} if call.id else {}),
                "type": "function",
                "function": {"name": call.name, "arguments": dict(call.arguments)},
            }
            for call in message.tool_calls
        ]
    if message.reasoning:
        turn["reasoning_content"] = message.reasoning
    for name in ("tool_call_id", "name"):
        if getattr(message, name):
            turn[name] = getattr(message, name)
    if message.untrained:
        turn["weight"] = 0
    return turn
