"""`posttrain drill`: provoke failures on a tiny model, and see that the checks catch them."""

import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from posttrain.cli.output import output_folder

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog="Example: posttrain drill all --json  ·  exit codes: 0 all caught, no healthy twin accused; 1 a fault missed or a healthy "
    "twin accused; 2 unknown name, or a folder to keep that is in use"
)
def drill(
    name: Annotated[str, typer.Argument(help="A drill, or all.")] = "all",
    list_them: Annotated[bool, typer.Option("--list", help="List the drills and what each breaks; run none.")] = False,
    keep: Annotated[
        Path | None, typer.Option(help="Keep the runs in this folder; otherwise they are removed.", callback=output_folder)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Put a fault into a healthy run and expect the right check to fail with the right diagnosis, and the healthy twin to pass."""
    from posttrain.drills import DRILLS, check_free, drill_lines, run_drill

    every = sorted((DRILLS.get(one) for one in DRILLS), key=lambda one: (one.number, one.name))
    if list_them:
        listed = [{"name": one.name, "number": one.number, "fault": one.fault} for one in every]
        lines = [f"{one.number:>2}  {one.name}: {one.fault}" for one in every]
        typer.echo(json.dumps({"drills": listed}, ensure_ascii=False) if as_json else "\n".join(lines))
        return
    chosen = every if name == "all" else [DRILLS.get(name)]
    reports = []
    with tempfile.TemporaryDirectory(prefix="posttrain-drill-") as temporary:
        root = keep or Path(temporary)
        check_free(root / one.name for one in chosen)
        for one in chosen:
            print(f"{one.name} ...", file=sys.stderr)
            reports.append(run_drill(one, root / one.name))
            if not as_json:
                typer.echo("\n".join(drill_lines(reports[-1:])))
    passed = all(report.passed for report in reports)
    if as_json:
        typer.echo(json.dumps({"passed": passed, "drills": [report.dump() for report in reports]}, ensure_ascii=False))
    else:
        typer.echo(f"{sum(report.passed for report in reports)} of {len(reports)} drills passed")
    raise typer.Exit(0 if passed else 1)
