"""Counterexamples to a row of BFCL: calls that are legal JSON and wrong, beside the right ones, as preference pairs.

* ``wrong_function``: another offered function, with arguments that fit it.
* ``wrong_value``: one argument holds another value of its kind.
* ``missing_argument``: one needed argument is left out.
* ``missing_call``: one call fewer; of a single call nothing, words instead.
* ``needless_call``: a call where no tool fits.

All but ``missing_argument`` fit the signatures.
"""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from posttrain.data.bfcl import BfclRow, NeededCall, Signature, right_calls
from posttrain.records import Message, PreferencePair, ToolCall

KINDS = ("wrong_function", "wrong_value", "missing_argument", "missing_call", "needless_call")
NO_TOOL = (
    "None of the tools I have can do this.",
    "I have no tool for that. The ones I can call do something else.",
    "I can't do this with the tools at hand: {tool} is for something else.",
    "That is outside what my tools can do, so I won't call any of them.",
    "Sorry, {tool} does not fit this request, and I have nothing else that does.",
    "No function here answers that question. Please give me another tool or ask me something that {tool} covers.",
    "I would need a different tool for this.",
    "There is no fitting function among those I was given.",
)
"""Words in place of a call; ``{tool}`` is an offered function's name."""
_NAMES = re.compile(r"[A-Z][\w'-]+(?: [A-Z][\w'-]+)*|\w{4,}")


def no_tool_answer(row: BfclRow, rng: random.Random) -> str:
    """What an assistant says when no tool fits."""
    names = [one["function"]["name"] for one in row.tools]
    choices = NO_TOOL if names else [one for one in NO_TOOL if "{tool}" not in one]
    return rng.choice(choices).format(tool=rng.choice(names) if names else "")


def wrong_calls(row: BfclRow, *, seed: int) -> list[PreferencePair]:
    """A pair of every kind that can be made of the row: the right answer chosen, the wrong one rejected.

    ``metadata["counterexample"]`` names the kind. A row whose needed calls are not known, or cannot be given, makes none.
    """
    if row.needed is None or not row.answerable:
        return []
    right = right_calls(row)
    pairs = []
    for kind in KINDS:
        rng = random.Random(f"{seed}:{kind}:{row.id}")
        rejected = _reject(kind, row, right, rng)
        if rejected is None:
            continue
        chosen = Message("assistant", tool_calls=right) if right else Message("assistant", no_tool_answer(row, rng))
        pairs.append(
            PreferencePair(
                prompt=row.messages,
                chosen=(chosen,),
                rejected=(rejected,),
                tools=row.tools,
                id=f"bfcl-{row.id}:{kind}",
                source="bfcl",
                metadata={"counterexample": kind, "category": row.category},
            )
        )
    return pairs


def _reject(kind: str, row: BfclRow, right: Sequence[ToolCall], rng: random.Random) -> Message | None:
    if not right:
        if kind != "needless_call" or not row.tools:
            return None
        return _calls([invented_call(rng.choice(row.tools), row.question, rng)])
    if kind == "missing_call":
        left = [*right]
        left.pop(rng.randrange(len(left)))
        return _calls(left) if left else Message("assistant", no_tool_answer(row, rng))
    changes = {"wrong_function": _wrong_functions, "wrong_value": _wrong_values, "missing_argument": _missing_arguments}
    if kind not in changes:
        return None
    for place in rng.sample(range(len(right)), len(right)):
        for call in changes[kind](row, right[place], rng):
            return _calls([*right[:place], call, *right[place + 1 :]])
    return None


def _calls(calls: Sequence[ToolCall]) -> Message:
    return Message("assistant", tool_calls=tuple(calls))


def _wrong_functions(row: BfclRow, call: ToolCall, rng: random.Random) -> Iterator[ToolCall]:
    needed = {name for one in row.needed or () for name in one}
    others = [one for one in row.tools if one["function"]["name"] not in needed]
    if others:
        yield invented_call(rng.choice(others), row.question, rng)


def _missing_arguments(row: BfclRow, call: ToolCall, rng: random.Random) -> Iterator[ToolCall]:
    for name in _shuffled(call.arguments, rng):
        schema = _parameters(row, call.name)
        if name in schema.get("required", ()) or all("" not in one[call.name].get(name, ("",)) for one in _same_function(row, call)):
            yield ToolCall(call.name, {key: value for key, value in call.arguments.items() if key != name})


def _wrong_values(row: BfclRow, call: ToolCall, rng: random.Random) -> Iterator[ToolCall]:
    """One argument changed to a value that no needed call of this function accepts."""
    for name in _shuffled(call.arguments, rng):
        accepted = [_normal(value) for one in _same_function(row, call) for value in one[call.name].get(name, ())]
        schema = _parameters(row, call.name)["properties"][name]
        for value in _other_values(call.arguments[name], schema, row.question, rng):
            if not _is_accepted(value, accepted):
                yield ToolCall(call.name, {**call.arguments, name: value})


def _same_function(row: BfclRow, call: ToolCall) -> list[NeededCall]:
    return [one for one in row.needed or () if call.name in one]


def _shuffled(values: Any, rng: random.Random) -> list[Any]:
    return rng.sample(list(values), len(values))


def _parameters(row: BfclRow, name: str) -> Mapping[str, Any]:
    return next(one["function"]["parameters"] for one in row.tools if one["function"]["name"] == name)


def _normal(value: Any) -> Any:
    """Texts by their letters and digits alone, so that a change of case or punctuation is none."""
    if isinstance(value, str):
        return re.sub(r"[\W_]", "", value).casefold()
    if isinstance(value, list):
        return [_normal(one) for one in value]
    return {key: _normal(one) for key, one in value.items()} if isinstance(value, dict) else value


def _is_accepted(value: Any, accepted: Sequence[Any]) -> bool:
    """Whether a value may be what an accepted one stands for; accepted objects hold a list of choices a key."""
    value = _normal(value)
    return value in accepted or any(_fits(value, one) for one in accepted)


def _fits(value: Any, accepted: Any) -> bool:
    if isinstance(value, dict) and isinstance(accepted, dict):
        return all(key in accepted and (one in accepted[key] if isinstance(accepted[key], list) else True) for key, one in value.items())
    if isinstance(value, list) and isinstance(accepted, list):
        return len(value) == len(accepted) and all(one == other or _fits(one, other) for one, other in zip(value, accepted, strict=True))
    return bool(value == accepted)


def _other_values(value: Any, schema: Mapping[str, Any], question: str, rng: random.Random) -> Iterator[Any]:
    """Values of the same kind, the most tempting first: other choices of an enum, other words of the question, near numbers."""
    if isinstance(schema.get("enum"), list):
        yield from (one for one in _shuffled(schema["enum"], rng) if type(one) is type(value))
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + step for step in _shuffled((1, 2, 10, -1), rng) if value + step >= 0)
        yield value + 100
    elif isinstance(value, float):
        yield round(value * rng.choice((0.5, 1.5, 2.0)) + 1, 4)
    elif isinstance(value, str):
        yield from _shuffled(_NAMES.findall(question), rng)
        yield from _shuffled(("other", "default"), rng)
    elif isinstance(value, list) and value:
        place = rng.randrange(len(value))
        for one in _other_values(value[place], schema.get("items") or {}, question, rng):
            yield [*value[:place], one, *value[place + 1 :]]
        yield value[:-1]
    elif isinstance(value, dict) and value:
        for key in _shuffled(value, rng):
            for one in _other_values(value[key], (schema.get("properties") or {}).get(key, {}), question, rng):
                yield {**value, key: one}


def invented_call(signature: Signature, question: str, rng: random.Random) -> ToolCall:
    """A call of the function with its required arguments filled from the question, as a model does that calls without need."""
    function = signature["function"]
    schema = function["parameters"]
    names = [one for one in schema.get("properties", {}) if one in schema.get("required", ())]
    return ToolCall(function["name"], {name: _invented(schema["properties"][name], question, rng) for name in names})


def _invented(schema: Mapping[str, Any], question: str, rng: random.Random) -> Any:
    if schema.get("enum"):
        return rng.choice(schema["enum"])
    numbers = [int(one) for one in re.findall(r"(?<![\w.])\d{1,6}(?![\w.])", question)] or [1, 2, 5, 10]
    match schema.get("type"):
        case "boolean":
            return rng.choice((True, False))
        case "integer":
            return rng.choice(numbers)
        case "number":
            return float(rng.choice(numbers))
        case "array":
            inner = schema.get("items") or {}
            return [_invented(inner, question, rng) for _ in range(max(1, schema.get("minItems", 1)))]
        case "object":
            properties = schema.get("properties") or {}
            return {name: _invented(properties[name], question, rng) for name in properties if name in schema.get("required", properties)}
        case _:
            return rng.choice(_NAMES.findall(question) or ["example"])
