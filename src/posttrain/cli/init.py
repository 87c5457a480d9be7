"""`posttrain init`: a project to start from."""

import json
from pathlib import Path
from typing import Annotated

import typer

from posttrain.cli.output import output_folder

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog="Example: posttrain init assistant --name billing && cd assistant && posttrain run recipes/billing.yaml")
def init(
    folder: Annotated[Path, typer.Argument(help="Where to write; made when it is not there.", callback=output_folder)] = Path("."),
    name: Annotated[str, typer.Option(help="Names the recipe, suite, policy and data.")] = "assistant",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Write a recipe, suite, policy, gate and data sample that run as they are, to edit.

    Change the policy's system prompt with its version, the data and the suite's cases to your own, then freeze the suite again
    (posttrain suite freeze suites/NAME-gate.yaml) and run the recipe.
    """
    from posttrain.recipes import write_starter

    written = write_starter(folder, name)
    if as_json:
        print(json.dumps({"written": [str(path) for path in written]}))
        return
    for path in written:
        print(path)
    print(f"\nnext: cd {folder} && posttrain run recipes/{name}.yaml")
