"""`posttrain preferences adjudicate`: uncertain comparisons out as blind tasks, decisions back in."""

import json
from pathlib import Path
from typing import Annotated

import typer

from posttrain.cli.output import output_file
from posttrain.cli.preferences_files import RubricFile, check_outputs, write_rows


def adjudicate(
    file: Annotated[Path, typer.Argument(help="Judged comparisons.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Labelling tasks; with --decisions, FILE with the decisions in it.", callback=output_file)
    ],
    decisions: Annotated[Path | None, typer.Option(help="The tasks as they came back, a judgement in each decided one.")] = None,
    final: Annotated[bool, typer.Option(help="A decision settles its comparison; --no-final adds it as one more vote.")] = True,
    limit: Annotated[int, typer.Option(help="At most so many tasks, most uncertain first; 0: all.", min=0)] = 0,
    least: Annotated[float, typer.Option(help="Entropy in bits from which a label is uncertain.", min=0.0)] = 0.5,
    method: Annotated[str, typer.Option(help="dawid_skene, majority or mean.")] = "dawid_skene",
    rubric_file: RubricFile = None,
    seed: Annotated[int, typer.Option(help="Of the order of sides.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write the uncertain comparisons as blind labelling tasks; or read the decisions back.

    Example: posttrain preferences adjudicate judged.jsonl --out tasks.jsonl --limit 50  ·  then
    posttrain preferences adjudicate judged.jsonl --decisions tasks.jsonl --out settled.jsonl
    """
    from posttrain.data import load_comparisons
    from posttrain.feedback import adjudication_queue, check_one_rubric, labelling_tasks, load_rubric, take_decisions

    check_outputs([out], [file, *([decisions] if decisions else [])], new_tasks=decisions is None)
    comparisons = load_comparisons(file)
    if decisions:
        decided = load_comparisons(decisions)
        done = sum(bool(task.judgements) for task in decided)
        settled = take_decisions(comparisons, decided, final=final)
        check_one_rubric(settled)
        count = write_rows(settled, out, card_of=file, nothing=f"{file} has no comparison")
        summary = {"out": str(out), "comparisons": count, "decided": done, "open": len(decided) - done}
    else:
        queue = adjudication_queue(comparisons, method=method, least=least)  # type: ignore[arg-type]
        rubric = load_rubric(rubric_file) if rubric_file else None
        tasks = labelling_tasks([doubt.comparison for doubt in queue[: limit or None]], seed=seed, rubric=rubric)
        nothing = f"none of {len(comparisons)} comparisons is uncertain"
        summary = {"out": str(out), "uncertain": len(queue), "tasks": write_rows(tasks, out, nothing=nothing)}
    typer.echo(json.dumps(summary) if as_json else ", ".join(f"{name} {value}" for name, value in summary.items()))
