"""Tasks as files: demonstrations to imitate, cases of a suite, preference pairs of right against wrong turns, each with a data card."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.config.files import write_text
from posttrain.data import card_path, record_to_row, write_jsonl
from posttrain.errors import DataError, suggest
from posttrain.records import Demonstration, PreferencePair
from posttrain.worlds.base import WorldTask, worlds


def demonstrations(tasks: Iterable[WorldTask]) -> Iterator[Demonstration]:
    """The expert's trajectory of each task."""
    for task in tasks:
        yield Demonstration((*task.messages, *task.demonstration), task.tools, task.id, _source(task), _about(task))


def case_rows(tasks: Iterable[WorldTask]) -> Iterator[dict[str, Any]]:
    """Each task as a line of a suite's case file; its ``metadata.world`` opens the state it starts from."""
    for task in tasks:
        turns = record_to_row(Demonstration(task.messages))["messages"]
        yield {
            "id": task.id,
            "messages": turns,
            "tools": [dict(tool) for tool in task.tools],
            "expected": dict(task.expected),
            "slices": list(task.slices),
            "group": task.group,
            "metadata": {"world": dict(task.world)},
        }


def preference_pairs(tasks: Iterable[WorldTask]) -> Iterator[PreferencePair]:
    """The right turn against the wrong one, for each counterexample, at the point where they part; the prompt is what came before."""
    for task in tasks:
        for number, wrong in enumerate(worlds.get(str(task.world["name"])).counterexamples(task)):
            chosen, rejected = task.demonstration[wrong.shared], wrong.turns[wrong.shared]
            yield PreferencePair(
                prompt=(*task.messages, *task.demonstration[: wrong.shared]),
                chosen=(chosen,),
                rejected=(rejected,),
                tools=task.tools,
                id=f"{task.id}:{number}:{wrong.kind}",
                source=_source(task),
                metadata={**_about(task), "counterexample": wrong.kind, "reason": wrong.reason},
            )


def _source(task: WorldTask) -> str:
    return f"world {task.world['name']}"


def _about(task: WorldTask) -> dict[str, Any]:
    return {"world": dict(task.world), "group": task.group, "slices": list(task.slices)}


WRITERS: Mapping[str, Callable[[Iterable[WorldTask]], Iterator[Any]]] = {
    "demonstrations": demonstrations,
    "cases": case_rows,
    "pairs": preference_pairs,
}


def write_tasks(tasks: Sequence[WorldTask], path: str | Path, form: str) -> int:
    """Write tasks as JSON Lines with the card beside them; returns the rows written. Raises DataError when there would be none."""
    if not tasks:
        raise DataError(f"no tasks, so {path} is not written", hint="ask for 1 or more")
    if form not in WRITERS:
        raise DataError(f"tasks cannot be written as '{form}'", hint=suggest(form, WRITERS))
    count = write_jsonl(WRITERS[form](tasks), path)
    write_text(card_path(path), "".join(f"{name}: {json.dumps(value)}\n" for name, value in _card(tasks, form).items()))
    return count


def _card(tasks: Sequence[WorldTask], form: str) -> dict[str, str]:
    world = tasks[0].world
    about = worlds.get(str(world["name"]))
    settings = ", ".join(f"{name} {value}" for name, value in world.items() if name not in ("name", "task"))
    return {
        "source": f"posttrain world {about.name} {about.version}: {settings}",
        "licence": about.licence,
        "consent": "generated: no person, company or account in it is real",
        "provenance": f"{form} of {len(tasks)} tasks, generated from the seed and executed in the world",
        "split": str(world["split"]),
        "notice": about.notice,
    }
