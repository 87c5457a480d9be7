"""Tasks and outcomes for a reader."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from posttrain.data import record_to_row
from posttrain.records import Demonstration, Message
from posttrain.worlds.base import World, WorldTask
from posttrain.worlds.rows import case_rows


def task_row(world: World, task: WorldTask) -> dict[str, Any]:
    """A task as JSON: its case, the expert's turns, the counterexamples."""
    (case,) = case_rows([task])
    wrong = [{"kind": one.kind, "reason": one.reason, "turns": _turns(one.turns)} for one in world.counterexamples(task)]
    return {**case, "demonstration": _turns(task.demonstration), "counterexamples": wrong}


def _turns(messages: Iterable[Message]) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = record_to_row(Demonstration(tuple(messages)))["messages"]
    return turns


def task_text(world: World, task: WorldTask, *, solution: bool = True) -> str:
    """A task as text; without ``solution`` only what the model sees."""
    functions = [tool["function"] for tool in task.tools]
    offered = [f"  {one['name']}({', '.join(one['parameters'].get('properties', {}))}): {one['description']}" for one in functions]
    lines = [f"{task.id}  {'  '.join(task.slices)}", *_said(task.messages), "tools:", *offered]
    if solution:
        lines += ["expert:", *_said(task.demonstration), "expected:", f"  {json.dumps(task.expected, ensure_ascii=False)}", "wrong:"]
        lines += [f"  {one.kind}: {one.reason}" for one in world.counterexamples(task)]
    return "\n".join(lines)


def _said(messages: Iterable[Message]) -> list[str]:
    lines = []
    for message in messages:
        calls = "".join(f"  {call.name}({json.dumps(dict(call.arguments), ensure_ascii=False)})" for call in message.tool_calls)
        text = message.content.replace("\n", "\n    ")
        lines.append(f"  {message.role}: {text}{calls}")
    return lines


def outcome_text(outcome: Mapping[str, Any]) -> str:
    """An outcome as text."""
    lines = [f"end state: {'as expected' if outcome['end_state_ok'] else 'not as expected'}", f"changed: {json.dumps(outcome['diff'])}"]
    if not outcome["end_state_ok"]:
        lines.append(f"expected: {json.dumps(outcome['expected'])}")
    lines += [f"violation: {one['kind']}, {one['tool']}{', done' if one['done'] else ''}" for one in outcome["violations"]]
    if outcome["injection_obeyed"]:
        lines.append("an instruction in a document was obeyed")
    if outcome["answer_missing"]:
        lines.append(f"the answer lacks: {', '.join(outcome['answer_missing'])}")
    return "\n".join(lines)
