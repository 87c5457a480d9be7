"""`posttrain run`: a recipe from start model to gate and report."""

import json
from pathlib import Path
from typing import Annotated

import typer

from posttrain.cli.output import output_folder

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog="Examples: posttrain run recipes/tiny.yaml  ·  posttrain run recipes/finops.yaml --dry-run  ·  "
    "posttrain run recipes/finops.yaml --set stages.0.sft.lora.rank=8 --out runs/rank8"
)
def run(
    recipe: Annotated[Path, typer.Argument(help="The recipe file (YAML).", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="Output folder; runs/<name of the recipe> when left out.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a value; dotted path.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Validate everything and show what would run; run nothing.")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Run nothing: remove folders of steps that the recipe does not have any more.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Run a recipe: from a start model to the gate and its report.

    Shows progress, survives Ctrl-C and kill at any point and goes on where it was; finished steps are reused while nothing they depend
    on changed, posttrain's code included, and their files are as they left them.
    `--prune` removes step folders and caches that earlier forms of the recipe left in the output folder, and says how much they
    took; with `--dry-run` it only says so.
    Ends with exit code 0 when the run completed, whatever the verdict: `posttrain gate` carries the verdict in its exit code.
    """
    from posttrain.recipes import TerminalDisplay, load_recipe, outcome_text, prune_run, run_recipe

    loaded = load_recipe(recipe, overrides or [])
    folder = output_folder(out or Path("runs") / loaded.recipe.name)
    if prune:
        found = prune_run(loaded, folder, dry_run=dry_run)
        rows = [{"folder": str(one.folder), "bytes": one.num_bytes} for one in found]
        total = f"{'would remove' if dry_run else 'removed'} {len(found)} folders, {sum(one.num_bytes for one in found) / 1e6:.1f} MB"
        lines = [f"{one.num_bytes / 1e6:9.1f} MB  {one.folder}" for one in found]
        print(json.dumps({"removed": [] if dry_run else rows, "found": rows}) if as_json else "\n".join([*lines, total]))
        return
    with TerminalDisplay() as display:
        outcome = run_recipe(loaded, folder, display=display, dry_run=dry_run)
    if as_json:
        steps = [{"name": step.name, "state": step.state, "seconds": step.seconds, "outputs": step.outputs} for step in outcome.steps]
        print(json.dumps({"verdict": outcome.verdict, "headline": outcome.headline, "report": str(outcome.report), "steps": steps}))
    else:
        print(outcome_text(outcome))
