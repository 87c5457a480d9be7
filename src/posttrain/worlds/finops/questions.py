"""Questions without a tool: general ones with their answers, and requests nobody's books can serve. Each belongs to one split."""

import functools
import json
from dataclasses import dataclass
from importlib import resources
from typing import Any

from posttrain.worlds.finops.entities import split_of


@dataclass(frozen=True, slots=True)
class Question:
    """``questions``: phrasings. ``answer``: the answer, or what cannot be done. ``facts``: an answer that holds one of them is right."""

    questions: tuple[str, ...]
    answer: str
    facts: tuple[str, ...] = ()


@functools.cache
def general_questions(split: str) -> tuple[Question, ...]:
    """General questions of a split."""
    return _of_split("general", split)


@functools.cache
def unrelated_requests(split: str) -> tuple[Question, ...]:
    """Requests of a split that no tool serves."""
    return _of_split("unrelated", split)


def _of_split(what: str, split: str) -> tuple[Question, ...]:
    rows: list[dict[str, Any]] = json.loads(resources.files(__package__).joinpath("questions.json").read_text(encoding="utf-8"))[what]
    mine = [row for row in rows if split_of(row["questions"][0]) == split]
    return tuple(Question(tuple(row["questions"]), row["answer"], tuple(row.get("facts", ()))) for row in mine)
