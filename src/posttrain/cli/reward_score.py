"""`posttrain reward score`: a reward for every answer of a file."""

import json
from pathlib import Path
from typing import Annotated

import typer

from posttrain.cli.output import output_file
from posttrain.cli.reward_use import BadRow, Json, Model


def score(
    model: Model,
    data: Annotated[Path, typer.Option("--data", "-d", help="Pairs, judged comparisons, or prompts with answers.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="JSONL file; left out: standard output.", callback=output_file)] = None,
    on_bad_row: BadRow = "stop",
    as_json: Json = False,
) -> None:
    """The reward of every answer in a file, one JSON row a record; pairs also get P(chosen is better)."""
    from posttrain.config.files import write_text
    from posttrain.rewards import RewardModel
    from posttrain.stages.preference_files import score_file

    rows, notes = score_file(RewardModel.load(model), data, on_bad_row=on_bad_row)
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    if out is not None:
        write_text(out, text + "\n")
    for note in notes:
        typer.echo(note, err=True)
    found = json.dumps({"rows": rows, "notes": notes}, ensure_ascii=False)
    typer.echo(found if as_json else text if out is None else f"{len(rows)} rows: {out}")
