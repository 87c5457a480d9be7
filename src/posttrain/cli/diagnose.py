"""`posttrain diagnose`: what is wrong with a run, the first lever, and what not to rush into."""

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog="Example: posttrain diagnose runs/preference --json  ·  exit codes: 0 read (whatever was found), 2 no run there")
def diagnose(
    run: Annotated[Path, typer.Argument(help="The folder of a recipe's run, of one stage, or of an evaluation.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Read what a run left behind and name each failure with its first lever, what not to rush into, and the figures it rests on."""
    from posttrain.release.levers import diagnose as read

    found = read(run)
    typer.echo(json.dumps(found.dump(), ensure_ascii=False) if as_json else "\n".join(found.lines()))
