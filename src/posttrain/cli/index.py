"""`posttrain index`: build, search and verify an index of documents."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from posttrain.cli.index_build import Embed, Json, Tenant, TenantFolders, build

app = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    help="Build, search and verify an index of documents, for the search tool.",
    epilog="Example: posttrain index build policies/ --out index && posttrain index search index 'travel approval'",
)
IndexPath = Annotated[Path, typer.Argument(help="The index's folder.")]

app.command(
    epilog="Example: posttrain index build policies/ --out index   ·   posttrain index build docs.jsonl --out index --backend tantivy"
)(build)


@app.command(epilog="Example: posttrain index search index 'who approves travel above 1,000 EUR' -k 3 --tenant bank_A")
def search(
    index: IndexPath,
    query: Annotated[str, typer.Argument(help="Any text; its words are looked for.")],
    k: Annotated[int, typer.Option("-k", help="At most so many passages, 1 to 1,000.")] = 5,
    tenant: Annotated[str | None, typer.Option(help="Search this tenant's passages beside those for all.")] = None,
    expected_version: Annotated[str | None, typer.Option(help="Refuse any other version of the index.")] = None,
    embed: Embed = None,
    as_json: Json = False,
) -> None:
    """The best passages for a query, best first."""
    from posttrain.tools.retrieval import load_embed, open_index

    with open_index(index, expected_version, embed=load_embed(embed)) as opened:
        hits = opened.search(query, k, tenant=tenant)
    if as_json:
        typer.echo(json.dumps({"query": query, "hits": [dataclasses.asdict(hit) for hit in hits]}, ensure_ascii=False))
    else:
        typer.echo("\n\n".join(f"{hit.passage.mark} {hit.score:.3g}\n{hit.passage.text}" for hit in hits) or "no passage was found")


@app.command(epilog="Example: posttrain index verify index --documents policies/   ·   exit codes: 0 as built, 1 changed, 2 not an index")
def verify(
    index: IndexPath,
    documents: Annotated[Path | None, typer.Option(help="Also compare with these sources, read as at the build.")] = None,
    tenant: Tenant = None,
    tenant_folders: TenantFolders = False,
    expected_version: Annotated[str | None, typer.Option(help="Refuse any other version of the index.")] = None,
    as_json: Json = False,
) -> None:
    """Read the whole index and compute its version anew; with --documents, name each source that has changed."""
    from posttrain.tools.retrieval import read_documents, verify_index

    sources = read_documents(documents, tenant=tenant, tenant_folders=tenant_folders) if documents else None
    version, problems = verify_index(index, expected_version, sources)
    if as_json:
        typer.echo(json.dumps({"index": str(index), "version": version, "ok": not problems, "problems": problems}, ensure_ascii=False))
    else:
        typer.echo("\n".join(problems) or f"{index}: as it was built, {version}")
    raise typer.Exit(1 if problems else 0)
