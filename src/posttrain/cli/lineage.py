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
    head: Annotated[str, typer.Option(help="The log's head as an earlier verify printed it; it must still be there.")] = "",
    store: Store = STORE,
    as_json: Json = False,
) -> None:
    """Recompute the hash of every recorded file and record, and of the log that chains them.

    Exit code 1 when a file is missing or changed, or a record or the log was tampered with. Files that a later run replaced or removed are
    counted, and are no problem.
    """
    from posttrain.lineage import LineageStore

    found = LineageStore(store).verification(node or None, head=head)
    if as_json:
        typer.echo(json.dumps({"ok": not found.problems, **dataclasses.asdict(found)}))
    else:
        typer.echo("\n".join(str(problem) for problem in found.problems) or "every file and record is as it was recorded")
        if found.superseded:
            typer.echo(f"superseded: {len(found.superseded)} records whose files a later run replaced or removed")
        if found.adopted:
            typer.echo(f"older than the log: {found.adopted} records; what happened to the store before cannot be told")
        typer.echo(f"log: {found.num_entries} entries, head {found.head[:16]}")
    raise typer.Exit(1 if found.problems else 0)
