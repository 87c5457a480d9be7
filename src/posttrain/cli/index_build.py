"""`posttrain index build`: cut documents into passages and index them."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from posttrain.cli.output import output_folder

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Documents = Annotated[Path, typer.Argument(help="A .txt, .md or .jsonl file ({id, text, tenant, metadata} a line), or a folder of them.")]
Tenant = Annotated[str | None, typer.Option(help="Owner of the documents that name none; without it they are for all.")]
TenantFolders = Annotated[bool, typer.Option(help="The first folder below DOCUMENTS names the tenant.")]
Embed = Annotated[str | None, typer.Option(help="For dense and hybrid: module:function, texts to float32 vectors.")]


def _progress(phase: str, done: int) -> None:
    print(f"\r{phase} {done:,} passages ", end="", file=sys.stderr, flush=True)


def build(
    documents: Documents,
    out: Annotated[
        Path,
        typer.Option(
            help="The index's folder; one that is an index already is replaced when the new one is complete.", callback=output_folder
        ),
    ],
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
