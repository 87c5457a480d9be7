"""Labelling tasks: comparisons to be judged blind, and the decisions that come back."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from posttrain.data.comparisons import check_one_rubric, latest_judgements, swap
from posttrain.errors import DataError, suggest
from posttrain.feedback.labels import label_table
from posttrain.feedback.pairs import Method, choice_probabilities, unusable
from posttrain.feedback.rubric import Rubric
from posttrain.records import Comparison, Judgement


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

    Half a bit is a choice that is 89 % sure. Gold tasks and settled comparisons are certain and never in it, nor are equal and empty
    answers, which never train. Equal entropy keeps the order of the file.
    """
    judged = [one for one in comparisons if one.judgements and not unusable(one)]
    if not judged:
        return []
    chances = choice_probabilities(label_table(judged), method=method)
    entropy = -(chances * np.log2(np.maximum(chances, 1e-12))).sum(axis=1)
    found = []
    for one, bits in zip(judged, entropy, strict=True):
        votes = dict(Counter(judgement.choice for judgement in latest_judgements(one)))
        if one.gold is None and (len(votes) > 1 or bits >= least):
            found.append(Doubt(one, max(0.0, float(bits)), {str(choice): count for choice, count in votes.items()}))
    return sorted(found, key=lambda doubt: -doubt.entropy)


def labelling_tasks(comparisons: Sequence[Comparison], *, seed: int, rubric: Rubric | None = None) -> list[Comparison]:
    """Blind tasks: prompt, answers and tools alone, sides in a random order that the seed repeats; side a is shown first.

    ``metadata["task"]`` is the id of the comparison and ``metadata["swapped"]`` whether the sides changed places; ``rubric`` and
    ``question`` say what to judge by (without ``rubric``: the version the comparisons were judged under). A labeller adds one judgement
    to ``judgements``. Raises DataError for ids that are empty or repeated, and for another rubric than the comparisons were judged under.
    """
    _check_ids(comparisons)
    judged = check_one_rubric(comparisons)
    if rubric and judged and judged != rubric.label:
        raise DataError(f"the comparisons were judged under rubric '{judged}', not '{rubric.label}'", hint="ask under the same rubric")
    asked = {"rubric": rubric.label, "question": rubric.question} if rubric else {"rubric": judged} if judged else {}
    tasks = []
    for one in comparisons:
        swapped = random.Random(f"{seed}:{one.id}").random() < 0.5
        a, b = (one.b, one.a) if swapped else (one.a, one.b)
        metadata = {"task": one.id, "swapped": swapped, **asked}
        tasks.append(Comparison(prompt=one.prompt, a=a, b=b, tools=one.tools, id=one.id, metadata=metadata))
    return tasks


def take_decisions(comparisons: Sequence[Comparison], decided: Sequence[Comparison], *, final: bool) -> list[Comparison]:
    """The comparisons with the judgements of decided tasks added, sides put back; a judgement that is there already is not added again.

    ``final``: the decision settles the comparison, as a gold answer does, and ``metadata["adjudicated_by"]`` says whose it is (such a
    comparison is no gold task: annotators are not measured on it; a gold task that is answered stays one). Tasks nobody decided are left
    open. Raises DataError for ids that are empty or repeated, for a task of another file, for a final decision that contradicts another
    or a gold answer, and for a judgement under another rubric than the task's or the comparison's.
    """
    _check_ids(comparisons)
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
        said = tuple(replace(judgement, first_shown=judgement.first_shown or shown) for judgement in back.judgements)
        _check_rubric(one, task, said)
        judgements = list(one.judgements)
        judgements += [judgement for judgement in said if judgement not in judgements]
        by_id[name] = replace(one, judgements=tuple(judgements))
        if final:
            by_id[name] = _settled(by_id[name], said)
    return [by_id[one.id] for one in comparisons]


def adjudicators(comparison: Comparison) -> frozenset[str]:
    """Annotators whose decision settled this comparison."""
    names = comparison.metadata.get("adjudicated_by") or ()
    return frozenset([names] if isinstance(names, str) else names)


def _settled(one: Comparison, said: Sequence[Judgement]) -> Comparison:
    """The comparison with these final decisions as its gold answer; one that has a gold answer keeps it, and may not be contradicted."""
    choices = {judgement.choice for judgement in said}
    if len(choices) > 1:
        raise DataError(f"task '{one.id}' has {len(choices)} final decisions: {', '.join(sorted(choices))}", hint="keep one")
    (choice,) = choices
    before = adjudicators(one)
    if one.gold and one.gold != choice:
        what = f"the decision of {', '.join(sorted(before))}" if before else "its gold answer"
        raise DataError(
            f"comparison '{one.id}' is decided as '{choice}', and {what} is '{one.gold}'",
            hint="mend the wrong one, or take the decisions as votes (--no-final)",
        )
    if one.gold and not before:
        return one
    names = sorted(before | {judgement.annotator for judgement in said})
    return replace(one, gold=choice, metadata={**one.metadata, "adjudicated_by": names})


def _check_ids(comparisons: Sequence[Comparison]) -> None:
    counts = Counter(one.id for one in comparisons)
    repeated = [f"'{identifier}' ({count})" for identifier, count in counts.items() if count > 1 or not identifier]
    if repeated:
        named = ", ".join(repeated[:5]) + (", ..." if len(repeated) > 5 else "")
        raise DataError(f"{len(repeated)} ids are empty or occur twice: {named}", hint="give every comparison its own id")


def _check_rubric(one: Comparison, task: Comparison, said: Sequence[Judgement]) -> None:
    asked = {str(task.metadata["rubric"])} if task.metadata.get("rubric") else set()
    there = {judgement.rubric for judgement in one.judgements}
    for how, versions in (("asked", asked), ("judged", there)):
        other = {judgement.rubric for judgement in said} - versions
        if versions and other:
            raise DataError(
                f"comparison '{one.id}' was {how} under rubric '{min(versions)}' and decided under '{min(other)}'",
                hint="decide it under the rubric it was judged under, or have all of them judged again",
            )
