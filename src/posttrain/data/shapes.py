"""The column shapes people have, one small function each: a row in, a record out.

A shape is found by its columns; the one with the most columns wins. To read another shape, register a function here.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from posttrain.config import Registry
from posttrain.data.conversations import (
    Row,
    answer,
    is_transcript,
    json_value,
    messages,
    number,
    side,
    text,
    tools,
    transcript,
    truth,
    with_system,
    with_untrained,
)
from posttrain.records import (
    Comparison,
    Demonstration,
    FeedbackEvent,
    FieldError,
    Judgement,
    Message,
    PreferencePair,
    PromptOnly,
    Record,
    StepLabels,
    UnpairedLabel,
    VerifiableTask,
)

Turns = tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """A named column shape: the columns it needs (``nullable`` ones may be null) and the function that reads a row."""

    name: str
    kind: type[Record]
    needs: frozenset[str]
    nullable: frozenset[str]
    parse: Callable[[Row], Record]


shapes: Registry[Shape] = Registry("row shape")


def shape(name: str, kind: type[Record], needs: str, *, nullable: str = "") -> Callable[[Callable[[Row], Record]], Callable[[Row], Record]]:
    """Register the decorated function as the reader of a shape; columns are given as words."""

    def register(parse: Callable[[Row], Record]) -> Callable[[Row], Record]:
        columns, empty = frozenset(needs.split()), frozenset(nullable.split())
        shapes.register(name)(Shape(name, kind, columns | empty, empty, parse))
        return parse

    return register


def matching(row: Row, allowed: list[Shape]) -> list[Shape]:
    """The shapes whose columns the row has, keeping only those with the most columns: one is a find, more are ambiguous."""
    filled = {column for column, value in row.items() if value is not None}
    found = [entry for entry in allowed if entry.needs - entry.nullable <= filled and entry.nullable <= row.keys()]
    most = max((len(entry.needs) for entry in found), default=0)
    return [entry for entry in found if len(entry.needs) == most]


def row_about(row: Row, *used: str) -> dict[str, Any]:
    """id, source and metadata of a row: its ``metadata`` column and every column the shape does not read."""
    known = {"id", "source", "metadata", "tools", "functions", "system", "system_prompt", *used}
    given = json_value(row.get("metadata") or {}, "metadata")
    if not isinstance(given, Mapping):
        raise FieldError("metadata", "is not an object", given, fix="give a JSON object")
    rest = {column: value for column, value in row.items() if column not in known and value is not None}
    return {"id": str(row.get("id", "")), "source": str(row.get("source", "")), "metadata": {**rest, **given}}


# --- demonstrations ---------------------------------------------------------------------------------------------


@shape("messages", Demonstration, "messages")
def _messages(row: Row) -> Record:
    """``num_prompt_messages``, as this package writes it, says that the first messages are a prompt that does not train."""
    turns = with_untrained(row, with_system(row, messages(row["messages"], "messages")))
    about, count = row_about(row, "messages", "num_prompt_messages"), row.get("num_prompt_messages") or 0
    about["metadata"].pop("untrained_turns", None)
    if count not in range(max(len(turns), 1)):
        raise FieldError("num_prompt_messages", f"is no number of messages before the last of {len(turns)}", count, fix="remove it")
    return Demonstration(messages=turns, tools=tools(row), num_prompt_messages=count, **about)


@shape("sharegpt", Demonstration, "conversations")
def _sharegpt(row: Row) -> Record:
    turns = with_system(row, messages(row["conversations"], "conversations"))
    return Demonstration(messages=turns, tools=tools(row), **row_about(row, "conversations"))


@shape("prompt_completion", Demonstration, "prompt completion")
def _prompt_completion(row: Row) -> Record:
    prompt = side(row["prompt"], "prompt", "user")
    completion = answer(row["prompt"], prompt, row["completion"], "completion")
    prompt = with_system(row, prompt)
    about = row_about(row, "prompt", "completion")
    return Demonstration((*prompt, *completion), tools=tools(row), num_prompt_messages=len(prompt), **about)


@shape("alpaca", Demonstration, "instruction output")
def _alpaca(row: Row) -> Record:
    """Instruction and input joined by a line break, as LLaMA-Factory does; ``history`` holds earlier [question, answer] turns."""
    past: list[Message] = []
    for position, turn in enumerate(json_value(row.get("history") or [], "history")):
        if not isinstance(turn, list) or len(turn) != 2:
            raise FieldError(f"history[{position}]", "is not a [question, answer] pair", turn, fix="give pairs of strings")
        for role, said in zip(("user", "assistant"), turn, strict=True):
            past.append(Message(role=role, content=text(said, f"history[{position}]")))
    turns = with_system(row, (*past, _instruction(row), Message(role="assistant", content=text(row["output"], "output"))))
    return Demonstration(messages=turns, tools=tools(row), **row_about(row, "instruction", "input", "output", "history"))


def _instruction(row: Row) -> Message:
    extra = text(row.get("input"), "input", required=False)
    asked = text(row["instruction"], "instruction")
    return Message(role="user", content=f"{asked}\n{extra}" if extra.strip() else asked)


@shape("question_answer", Demonstration, "question answer")
def _question_answer(row: Row) -> Record:
    turns = (
        Message(role="user", content=text(row["question"], "question")),
        Message(role="assistant", content=text(row["answer"], "answer")),
    )
    return Demonstration(messages=with_system(row, turns), tools=tools(row), **row_about(row, "question", "answer"))


# --- preference pairs -------------------------------------------------------------------------------------------


@shape("preference", PreferencePair, "chosen rejected")
def _preference(row: Row) -> Record:
    """``prompt`` explicit, or implicit: the common beginning of both sides (messages, HH transcripts or plain text, as in TRL)."""
    if row.get("prompt") is not None:
        prompt = side(row["prompt"], "prompt", "user")
        sides = [answer(row["prompt"], prompt, row[column], column) for column in ("chosen", "rejected")]
        return _not_imitated(row, _pair(row, prompt, sides, "prompt"), "prompt", "chosen")
    if is_transcript(row["chosen"]):
        chosen, rejected = transcript(row["chosen"], "chosen"), transcript(row["rejected"], "rejected")
    elif isinstance(row["chosen"], str):
        return _plain_pair(row)
    else:
        chosen, rejected = messages(row["chosen"], "chosen"), messages(row["rejected"], "rejected")
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    while shared and chosen[shared].role != "assistant":
        shared -= 1
    if not shared:
        fix = "both sides must begin with the same turns, or give a 'prompt' column"
        raise FieldError("chosen", "shares no prompt with 'rejected'", chosen[0].content if chosen else "", fix=fix)
    return _not_imitated(row, _pair(row, chosen[:shared], (chosen[shared:], rejected[shared:])), "chosen")


def _not_imitated(row: Row, pair: PreferencePair, *columns: str) -> PreferencePair:
    """HH-RLHF, known by its transcripts: the better answer can be harmful too, so it is never to be imitated."""
    if any(is_transcript(row[column]) for column in columns):
        return replace(pair, metadata={**pair.metadata, "imitation": False})
    return pair


def _plain_pair(row: Row) -> PreferencePair:
    """Plain text on both sides: the prompt is their common beginning, cut back to the last blank (TRL's ``extract_prompt``)."""
    chosen, rejected = text(row["chosen"], "chosen"), text(row["rejected"], "rejected")
    limit = min(len(chosen), len(rejected))
    split = next((i for i in range(limit) if chosen[i] != rejected[i]), limit)
    while split and not chosen[split - 1].isspace():
        split -= 1
    if not chosen[:split].strip():
        raise FieldError(
            "chosen", "shares no prompt with 'rejected'", chosen, fix="give a 'prompt' column, or begin both sides with the same prompt"
        )
    answers = (text(value[split:], column) for value, column in ((chosen, "chosen"), (rejected, "rejected")))
    sides = [(Message(role="assistant", content=answer),) for answer in answers]
    return _pair(row, (Message(role="user", content=chosen[:split].rstrip()),), sides)


def _pair(row: Row, prompt: Turns, sides: Iterable[Turns], *used: str) -> PreferencePair:
    chosen, rejected = sides
    margin = row.get("margin")
    return PreferencePair(
        prompt=with_system(row, prompt),
        chosen=chosen,
        rejected=rejected,
        tools=tools(row),
        probability=1.0 if row.get("probability") in (None, "") else number(row["probability"], "probability"),
        margin=None if margin in (None, "") else number(margin, "margin"),
        **row_about(row, "chosen", "rejected", "probability", "margin", *used),
    )


@shape("sharegpt_preference", PreferencePair, "conversations chosen rejected")
def _sharegpt_preference(row: Row) -> Record:
    prompt = messages(row["conversations"], "conversations")
    return _pair(row, prompt, [side(row[column], column, "assistant") for column in ("chosen", "rejected")], "conversations")


@shape("alpaca_preference", PreferencePair, "instruction chosen rejected")
def _alpaca_preference(row: Row) -> Record:
    sides = (side(row[column], column, "assistant") for column in ("chosen", "rejected"))
    return _pair(row, (_instruction(row),), sides, "instruction", "input")


@shape("openai_preference", PreferencePair, "input preferred_output non_preferred_output")
def _openai_preference(row: Row) -> Record:
    given = json_value(row["input"], "input")
    if not isinstance(given, Mapping) or "messages" not in given:
        raise FieldError("input", "holds no messages", given, fix='give {"messages": [...]}')
    sides = (messages(row[column], column) for column in ("preferred_output", "non_preferred_output"))
    used = ("input", "preferred_output", "non_preferred_output")
    return _pair({**row, "tools": given.get("tools")}, messages(given["messages"], "input.messages"), sides, *used)


# --- labels, steps, tasks, feedback -----------------------------------------------------------------------------


@shape("unpaired", UnpairedLabel, "prompt completion label")
def _unpaired(row: Row) -> Record:
    prompt = side(row["prompt"], "prompt", "user")
    completion = answer(row["prompt"], prompt, row["completion"], "completion")
    return _unpaired_label(row, prompt, completion, "prompt", "completion")


@shape("unpaired_messages", UnpairedLabel, "messages label")
def _unpaired_messages(row: Row) -> Record:
    turns = messages(row["messages"], "messages")
    return _unpaired_label(row, turns[:-1], turns[-1:], "messages")


@shape("unpaired_sharegpt", UnpairedLabel, "conversations label")
def _unpaired_sharegpt(row: Row) -> Record:
    turns = messages(row["conversations"], "conversations")
    return _unpaired_label(row, turns[:-1], turns[-1:], "conversations")


def _unpaired_label(row: Row, prompt: Turns, completion: Turns, *used: str) -> UnpairedLabel:
    about = row_about(row, "label", *used)
    label = truth(row["label"], "label")
    return UnpairedLabel(prompt=with_system(row, prompt), completion=completion, label=label, tools=tools(row), **about)


@shape("comparison", Comparison, "prompt completion_a completion_b judgements")
def _comparison(row: Row) -> Record:
    """Two answers and the judgements about them; an empty list of judgements is a labelling task nobody has done yet."""
    given = json_value(row["judgements"], "judgements")
    if not isinstance(given, list):
        raise FieldError("judgements", "is not a list", given, fix='give a list of {"annotator", "choice", "rubric"}; or []')
    prompt = side(row["prompt"], "prompt", "user")
    a, b = (_answer(row, prompt, column) for column in ("completion_a", "completion_b"))
    judgements = tuple(_judgement(item, f"judgements[{position}]") for position, item in enumerate(given))
    about = row_about(row, "prompt", "completion_a", "completion_b", "judgements", "gold")
    return Comparison(
        prompt=with_system(row, prompt), a=a, b=b, judgements=judgements, gold=row.get("gold") or None, tools=tools(row), **about
    )


def _answer(row: Row, prompt: Turns, column: str) -> Turns:
    """An answer as in every shape, but empty text is one too."""
    return (Message(role="assistant"),) if row[column] == "" else answer(row["prompt"], prompt, row[column], column)


def _judgement(item: Any, where: str) -> Judgement:
    if not isinstance(item, Mapping):
        raise FieldError(where, "is not an object", item, fix='give {"annotator": ..., "choice": "a", "b" or "tie", "rubric": ...}')
    known = ("annotator", "choice", "rubric", "strength", "first_shown", "dimensions", "created")
    if unknown := sorted(set(item) - set(known)):
        raise FieldError(f"{where}.{unknown[0]}", "is no field of a judgement", item[unknown[0]], fix=f"use: {', '.join(known)}")
    said: dict[str, Any] = {name: text(item.get(name), f"{where}.{name}") for name in ("annotator", "choice", "rubric")}
    strength, dimensions = item.get("strength"), item.get("dimensions") or {}
    if not isinstance(dimensions, Mapping):
        raise FieldError(f"{where}.dimensions", "is not an object", dimensions, fix="give the rubric's dimensions and their answers")
    return Judgement(
        **said,
        strength=None if strength is None else number(strength, f"{where}.strength"),
        first_shown=item.get("first_shown") or None,
        dimensions=dict(dimensions),
        created=text(item.get("created"), f"{where}.created", required=False),
    )


@shape("steps", StepLabels, "prompt steps labels")
def _steps(row: Row) -> Record:
    return _step_labels(row, "prompt", "steps", json_value(row["labels"], "labels"), "labels")


@shape("stepwise", StepLabels, "prompt completions labels")
def _stepwise(row: Row) -> Record:
    return _step_labels(row, "prompt", "completions", json_value(row["labels"], "labels"), "labels")


@shape("first_mistake", StepLabels, "input steps", nullable="mistake_index")
def _first_mistake(row: Row) -> Record:
    """BIG-Bench Mistake: steps before ``mistake_index`` are right, that one wrong, later ones unlabelled; null: all right."""
    steps, first = json_value(row["steps"], "steps"), row["mistake_index"]
    if not isinstance(steps, list):
        raise FieldError("steps", "is not a list", steps, fix="give the steps as a list of strings")
    first = None if first == "" else first
    if first is not None and not (str(first).isdigit() and int(first) < len(steps)):
        raise FieldError("mistake_index", f"is not a position among {len(steps)} steps", first, fix="count from 0; null means no mistake")
    labels = [True] * len(steps) if first is None else [True] * int(first) + [False] + [None] * (len(steps) - int(first) - 1)
    return _step_labels(row, "input", "steps", labels, "mistake_index")


def _step_labels(row: Row, prompt: str, steps: str, labels: Any, *used: str) -> StepLabels:
    given = json_value(row[steps], steps)
    for column, value in ((steps, given), ("labels", labels)):
        if not isinstance(value, list):
            raise FieldError(column, "is not a list", value, fix="give a list, one entry a step")
    return StepLabels(
        prompt=with_system(row, side(row[prompt], prompt, "user")),
        steps=tuple(text(step, f"{steps}[{position}]") for position, step in enumerate(given)),
        labels=tuple(None if label is None else truth(label, f"labels[{position}]") for position, label in enumerate(labels)),
        **row_about(row, prompt, steps, *used),
    )


@shape("verifiable", VerifiableTask, "prompt verifier reference")
def _verifiable(row: Row) -> Record:
    return _task(row, side(row["prompt"], "prompt", "user"), row["verifier"], row["reference"], "prompt", "verifier", "reference")


@shape("rlvr", VerifiableTask, "messages ground_truth dataset")
def _rlvr(row: Row) -> Record:
    """Open-Instruct's RLVR sets: ``dataset`` names the verifier."""
    prompt = messages(row["messages"], "messages")
    return _task(row, prompt, row["dataset"], row["ground_truth"], "messages", "ground_truth", "dataset")


@shape("verl", VerifiableTask, "prompt reward_model data_source")
def _verl(row: Row) -> Record:
    """verl's sets: ``data_source`` names the verifier, ``reward_model.ground_truth`` is the reference."""
    reward = json_value(row["reward_model"], "reward_model")
    if not isinstance(reward, Mapping) or reward.get("ground_truth") is None:
        raise FieldError("reward_model", "has no ground_truth", reward, fix='give {"ground_truth": ...}')
    prompt = side(row["prompt"], "prompt", "user")
    return _task(row, prompt, row["data_source"], reward["ground_truth"], "prompt", "reward_model", "data_source")


def _task(row: Row, prompt: Turns, verifier: Any, reference: Any, *used: str) -> VerifiableTask:
    name = text(verifier, "verifier")
    return VerifiableTask(prompt=with_system(row, prompt), verifier=name, reference=reference, tools=tools(row), **row_about(row, *used))


@shape("feedback", FeedbackEvent, "prompt completion signal policy_version")
def _feedback(row: Row) -> Record:
    said: dict[str, Any] = {column: text(row.get(column), column) for column in ("signal", "policy_version", "consent", "created")}
    prompt = side(row["prompt"], "prompt", "user")
    return FeedbackEvent(
        prompt=with_system(row, prompt),
        completion=answer(row["prompt"], prompt, row["completion"], "completion"),
        value=row.get("value"),
        **said,
        **row_about(row, "prompt", "completion", "value", *said),
    )


# --- prompts alone: read only where they are asked for, as every row with a misspelt answer would be one -------------


@shape("prompt", PromptOnly, "prompt")
def _prompt(row: Row) -> Record:
    return _prompt_only(row, "prompt")


@shape("prompt_messages", PromptOnly, "messages")
def _prompt_messages(row: Row) -> Record:
    return _prompt_only(row, "messages")


def _prompt_only(row: Row, column: str) -> PromptOnly:
    """The conversation up to its last answer, which is left out: it is what is asked for."""
    turns = with_system(row, side(row[column], column, "user"))
    if turns[-1:] and turns[-1].role == "assistant":
        turns = turns[:-1]
    if not turns:
        raise FieldError(column, "has no turn to answer", row[column], fix="end with a user or tool message")
    return PromptOnly(prompt=turns, tools=tools(row), **row_about(row, column))
