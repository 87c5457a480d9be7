"""`posttrain world`: worlds with tools: look at their tasks, write them as data, act in them."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from posttrain.cli.output import output_file

app = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    help="Worlds with tools: look at their tasks, write them as data, act in them.",
    epilog="Example: posttrain world tasks finops --split train --count 600 --out data/finops-train.jsonl",
)
Name = Annotated[str, typer.Argument(help="The world.")]
Split = Annotated[str, typer.Option(help="train, validation or test; they share no entity.")]
Seed = Annotated[int, typer.Option(help="Of companies and tasks.")]
Size = Annotated[int, typer.Option(help="How large the companies are; 1: about 180 rows each.")]
Number = Annotated[int, typer.Option("--task", help="The task's number under that split and seed.", min=0)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command(epilog="Example: posttrain world show finops --split test --task 3")
def show(name: Name, split: Split = "train", seed: Seed = 0, task: Number = 0, size: Size = 1, as_json: Json = False) -> None:
    """One task: what is asked and offered, what the expert does, and what would be wrong."""
    from posttrain.worlds import worlds
    from posttrain.worlds.display import task_row, task_text

    world = worlds.get(name)
    found = world.task(split, seed=seed, number=task, size=size)
    typer.echo(json.dumps(task_row(world, found), ensure_ascii=False) if as_json else task_text(world, found))


@app.command(epilog="Example: posttrain world tasks finops --split test --seed 7 --count 120 --as cases --out suites/world.jsonl")
def tasks(
    name: Name,
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON Lines; its card is written beside it.", callback=output_file)],
    split: Split = "train",
    seed: Seed = 0,
    count: Annotated[int, typer.Option(help="How many tasks.", min=1)] = 600,
    form: Annotated[str, typer.Option("--as", help="demonstrations, cases or pairs.")] = "demonstrations",
    only: Annotated[list[str] | None, typer.Option(help="A kind or family of task. May be repeated.")] = None,
    size: Size = 1,
    as_json: Json = False,
) -> None:
    """Write tasks as demonstrations to imitate, cases of a suite, or preference pairs of right against wrong turns."""
    from posttrain.worlds import worlds, write_tasks

    found = worlds.get(name).tasks(split, seed=seed, count=count, size=size, only=only or ())
    rows = write_tasks(found, out, form)
    summary = {"out": str(out), "as": form, "rows": rows, "tasks": len(found), "worlds": len({one.group for one in found})}
    typer.echo(json.dumps(summary) if as_json else f"{out}: {rows:,} {form} of {len(found):,} tasks in {summary['worlds']:,} worlds")


@app.command(epilog="Example: posttrain world play finops --split test --task 3 --calls calls.json  ·  exit codes: 0 solved, 1 not")
def play(
    name: Name,
    split: Split = "train",
    seed: Seed = 0,
    task: Number = 0,
    size: Size = 1,
    calls: Annotated[Path | None, typer.Option(help="JSON list of calls (a list: at once) and the answer; else typed.")] = None,
    as_json: Json = False,
) -> None:
    """Act in a world by hand: type a call as JSON or, to end, the answer; then read what became of the task."""
    from posttrain.worlds import worlds
    from posttrain.worlds.display import outcome_text, task_text
    from posttrain.worlds.play import is_solved, play, read_turns, typed_turns

    world = worlds.get(name)
    found = world.task(split, seed=seed, number=task, size=size)
    if calls is None:
        print(task_text(world, found, solution=False), file=sys.stderr)
    turns = typed_turns(sys.stdin) if calls is None else read_turns(calls)
    outcome = play(found, turns, lambda message: print(message.content, file=sys.stderr))
    typer.echo(json.dumps(outcome, ensure_ascii=False) if as_json else outcome_text(outcome))
    raise typer.Exit(0 if is_solved(outcome) else 1)
