"""`posttrain lineage`: show what an artefact was made from, compare two, verify that their files are still the same."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    help="Show, diff and verify what things were made from.",
    epilog="Example: posttrain lineage show latest:verdict",
)

Store = Annotated[Path, typer.Option("--store", help="The lineage store (an SQLite file).")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
STORE = Path("runs/lineage.db")


@app.command(epilog="Example: posttrain lineage show latest:adapter")
def show(
    node: Annotated[str, typer.Argument(help="An id, a unique beginning of one, latest, or latest:KIND.")] = "latest",
    store: Store = STORE,
    as_json: Json = False,
) -> None:
    """Print an artefact and, as a tree, everything it was made from."""
    from posttrain.lineage import LineageStore, node_record, render_tree

    lineage = LineageStore(store)
    if as_json:
        found = lineage.get(node)
        typer.echo(json.dumps({"node": node_record(found), "ancestors": [node_record(item) for item in lineage.ancestors(found.id)]}))
    else:
        typer.echo("\n".join(render_tree(lineage, node)))


@app.command(epilog="Example: posttrain lineage diff adapter:3f2a latest:adapter")
def diff(
    before: Annotated[str, typer.Argument(help="The first artefact, such as the adapter in service.")],
    after: Annotated[str, typer.Argument(help="The second artefact, such as the new adapter.")],
    store: Store = STORE,
    as_json: Json = False,
) -> None:
    """Print what differs in data, policy text, template, configuration, code and versions behind two artefacts."""
    from posttrain.lineage import LineageStore, render_diff

    difference = LineageStore(store).diff(before, after)
    typer.echo(json.dumps(dataclasses.asdict(difference)) if as_json else "\n".join(render_diff(difference)))


@app.command(epilog="Example: posttrain lineage verify latest:verdict")
def verify(
    node: Annotated[str, typer.Argument(help="Check this artefact and its sources only; all when left out.")] = "",
    store: Store = STORE,
    as_json: Json = False,
) -> None:
    """Recompute the hash of every recorded file and record. Exit code 1 when one is missing, changed or tampered with."""
    from posttrain.lineage import LineageStore

    problems = LineageStore(store).verify(node or None)
    if as_json:
        typer.echo(json.dumps({"ok": not problems, "problems": [dataclasses.asdict(problem) for problem in problems]}))
    else:
        typer.echo("\n".join(str(problem) for problem in problems) or "every file and record is as it was recorded")
    raise typer.Exit(1 if problems else 0)
