"""Labelling tasks: comparisons to be judged blind, and the decisions that come back."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from posttrain.data.comparisons import swap
from posttrain.errors import DataError, suggest
from posttrain.feedback.labels import label_table
from posttrain.feedback.pairs import Method, choice_probabilities
from posttrain.records import Comparison, Judgement

HIDDEN = ("model_a", "model_b", "cmp_key", "score_a", "score_b")
"""Metadata that would tell a judge who wrote which answer, or what to think of it."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """A comparison and how uncertain its label is: the entropy of the three choices in bits, 0 to log2(3)."""

    comparison: Comparison
    entropy: float
    votes: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"id": self.comparison.id, "entropy": round(self.entropy, 4), "votes": self.votes}


def adjudication_queue(comparisons: Sequence[Comparison], *, method: Method = "dawid_skene", least: float = 0.5) -> list[Doubt]:
    """Comparisons whose annotators differ, or whose label has at least ``least`` bits of entropy; most uncertain first.

    Half a bit is a choice that is 89 % sure. Gold tasks and settled comparisons are certain and never in it. Equal entropy keeps the order
    of the file.
    """
    judged = [one for one in comparisons if one.judgements]
    if not judged:
        return []
    chances = choice_probabilities(label_table(judged), method=method)
    entropy = -(chances * np.log2(np.maximum(chances, 1e-12))).sum(axis=1)
    found = []
    for one, bits in zip(judged, entropy, strict=True):
        votes = dict(Counter(judgement.choice for judgement in one.judgements))
        if one.gold is None and (len(votes) > 1 or bits >= least):
            found.append(Doubt(one, max(0.0, float(bits)), {str(choice): count for choice, count in votes.items()}))
    return sorted(found, key=lambda doubt: -doubt.entropy)


def labelling_tasks(comparisons: Sequence[Comparison], *, seed: int) -> list[Comparison]:
    """Blind tasks: no judgements, no names of models, sides in a random order that the seed repeats.

    ``metadata["task"]`` is the id of the comparison and ``metadata["swapped"]`` whether the sides changed places; side a is shown first.
    A labeller adds one judgement to ``judgements``.
    """
    repeated = [identifier for identifier, count in Counter(one.id for one in comparisons).items() if count > 1 or not identifier]
    if repeated:
        raise DataError(f"{len(repeated)} ids are empty or occur twice, such as '{repeated[0]}'", hint="give every comparison its own id")
    tasks = []
    for one in comparisons:
        swapped = random.Random(f"{seed}:{one.id}").random() < 0.5
        shown = swap(one) if swapped else one
        kept = {name: value for name, value in shown.metadata.items() if name not in HIDDEN}
        tasks.append(replace(shown, judgements=(), gold=None, metadata={**kept, "task": one.id, "swapped": swapped}))
    return tasks


def take_decisions(comparisons: Sequence[Comparison], decided: Sequence[Comparison], *, final: bool) -> list[Comparison]:
    """The comparisons with the judgements of decided tasks added, sides put back.

    ``final``: the decision settles the comparison, as a gold answer does, and ``metadata["adjudicated_by"]`` says whose it is (such a
    comparison is no gold task: annotators are not measured on it). Tasks nobody decided are left open. Raises DataError for a task of
    another file, for two different final decisions, and for a decision under another rubric than the comparison's.
    """
    by_id = {one.id: one for one in comparisons}
    for task in decided:
        name = str(task.metadata.get("task", ""))
        if name not in by_id:
            raise DataError(f"task '{task.id}' is about no comparison of this file", hint=suggest(name, by_id))
        if not task.judgements:
            continue
        one = by_id[name]
        back = swap(task) if task.metadata.get("swapped") else task
        if (back.a, back.b) != (one.a, one.b):
            raise DataError(f"task '{name}' shows other answers than the comparison has", hint="the file changed since the tasks were made")
        shown: Literal["a", "b"] = "b" if task.metadata.get("swapped") else "a"
        added = tuple(replace(judgement, first_shown=judgement.first_shown or shown) for judgement in back.judgements)
        _check_rubric(one, added)
        by_id[name] = replace(one, judgements=(*one.judgements, *added))
        if final:
            choices = {judgement.choice for judgement in added}
            if len(choices) > 1:
                raise DataError(f"task '{name}' has {len(choices)} final decisions: {', '.join(sorted(choices))}", hint="keep one")
            names = ", ".join(sorted({judgement.annotator for judgement in added}))
            by_id[name] = replace(by_id[name], gold=choices.pop(), metadata={**one.metadata, "adjudicated_by": names})
    return [by_id[one.id] for one in comparisons]


def _check_rubric(one: Comparison, added: Sequence[Judgement]) -> None:
    there = {judgement.rubric for judgement in one.judgements}
    other = {judgement.rubric for judgement in added} - there
    if there and other:
        raise DataError(
            f"comparison '{one.id}' was judged under rubric '{min(there)}' and decided under '{min(other)}'",
            hint="decide it under the rubric it was judged under, or have all of them judged again",
        )
