"""The calls of a plan in BFCL's possible-answer form."""

from collections.abc import Mapping
from typing import Any

from posttrain.metrics.bfcl import ANY_VALUE
from posttrain.records import ToolCall
from posttrain.worlds.finops.scene import Plan

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "list_bank_lines": {"party": ""},
}
FREE = {"search_policy": "query"}
"""Arguments in free words: any value does, what it found is seen in the answer."""


def possible_answer(plan: Plan) -> list[dict[str, dict[str, list[Any]]]]:
    """``[{name: {argument: [accepted values]}}, ...]`` of all calls in order; ``""`` among the values: it may be left out."""
    return [{call.name: _accepted(call, plan.accepted.get(call.name, {}))} for turn in plan.turns for call in turn]


def _accepted(call: ToolCall, more: Mapping[str, Any]) -> dict[str, list[Any]]:
    accepted: dict[str, list[Any]] = {}
    for name, value in call.arguments.items():
        if FREE.get(call.name) == name:
            accepted[name] = [dict(ANY_VALUE)]
        elif isinstance(value, list):
            accepted[name] = [[{key: [one] for key, one in item.items()} for item in value]]
        else:
            accepted[name] = [value]
    for name, value in DEFAULTS.get(call.name, {}).items():
        if accepted.setdefault(name, [value]) == [value]:
            accepted[name] = list(dict.fromkeys([value, ""]))
    for name, values in more.items():
        known = accepted.setdefault(name, [])
        known += [value for value in values if value not in known]
    return accepted
