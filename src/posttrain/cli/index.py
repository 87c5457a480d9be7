"""`posttrain index`: build, search and verify an index of documents."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    help="Build, search and verify an index of documents, for the search tool.",
    epilog="Example: posttrain index build policies/ --out index && posttrain index search index 'travel approval'",
)
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
IndexPath = Annotated[Path, typer.Argument(help="The index's folder.")]
Documents = Annotated[Path, typer.Argument(help="A .txt, .md or .jsonl file ({id, text, tenant, metadata} a line), or a folder of them.")]
Tenant = Annotated[str | None, typer.Option(help="Owner of the documents that name none; without it they are for all.")]
TenantFolders = Annotated[bool, typer.Option(help="The first folder below DOCUMENTS names the tenant.")]
Embed = Annotated[str | None, typer.Option(help="For dense and hybrid: module:function, texts to float32 vectors.")]


def _progress(phase: str, done: int) -> None:
    print(f"\r{phase} {done:,} passages ", end="", file=sys.stderr, flush=True)


@app.command(
    epilog="Example: posttrain index build policies/ --out index   ·   posttrain index build docs.jsonl --out index --backend tantivy"
)
def build(
    documents: Documents,
    out: Annotated[Path, typer.Option(help="The index's folder; one that is an index already is replaced when the new one is complete.")],
    backend: Annotated[str, typer.Option(help="fts5, tantivy, dense or hybrid.")] = "fts5",
    max_chars: Annotated[int, typer.Option(help="Longest passage.")] = 800,
    tenant: Tenant = None,
    tenant_folders: TenantFolders = False,
    embed: Embed = None,
    as_json: Json = False,
) -> None:
    """Cut documents into passages and index them. The version printed pins the index."""
    from posttrain.tools.retrieval import build_index, load_embed, read_documents

    source = read_documents(documents, tenant=tenant, tenant_folders=tenant_folders)
    with build_index(source, out, backend, load_embed(embed), max_chars=max_chars, on_progress=_progress) as index:
        print(file=sys.stderr)
        summary: dict[str, Any] = {"index": str(out), "version": index.version, **index.manifest.dump()}
    text = f"{out}: {summary['num_passages']:,} passages of {summary['num_documents']:,} documents, {backend}, {summary['version']}"
    typer.echo(json.dumps(summary, ensure_ascii=False) if as_json else text)


@app.command(epilog="Example: posttrain index search index 'who approves travel above 1,000 EUR' -k 3 --tenant bank_A")
def search(
    index: IndexPath,
    query: Annotated[str, typer.Argument(help="Any text; its words are looked for.")],
    k: Annotated[int, typer.Option("-k", help="At most so many passages.")] = 5,
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
