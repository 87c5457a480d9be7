"""`posttrain models`: add, list, show, merge, params."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from posttrain.cli.output import output_folder

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    help="Add, list, inspect and merge models.",
    epilog="Example: posttrain models add smollm2-135m  ·  posttrain models add ./model.gguf --name mine",
)
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def _print(value: dict[str, Any], as_json: bool, text: str) -> None:
    print(json.dumps(value, ensure_ascii=False) if as_json else text)


@app.command(epilog="Example: posttrain models add smollm2-135m")
def add(
    source: Annotated[str, typer.Argument(help="A known name (smollm2-135m), a .gguf file, a model folder, or a hub id owner/name.")],
    name: Annotated[str | None, typer.Option(help="How recipes will call it.")] = None,
    as_json: Json = False,
) -> None:
    """Fetch or convert a model once and keep it in the cache, with its origin, licence and hashes."""
    from posttrain.models.sources import add_model, verify_model

    folder = add_model(source, name=name)
    record = {**verify_model(folder), "path": str(folder)}
    _print(record, as_json, f"{record['name']}: {folder} ({record['source']}, licence {record['licence']})")


@app.command("list", epilog="Example: posttrain models list --json")
def list_(as_json: Json = False) -> None:
    """Models in the cache."""
    from posttrain.models.sources import list_models

    records = list_models()
    lines = [f"{record['name']}: {record['path']} ({record['source']}, licence {record['licence']})" for record in records]
    _print({"models": records}, as_json, "\n".join(lines) or "no model yet; `posttrain models add smollm2-135m` fetches a small one")


@app.command(epilog="Example: posttrain models show smollm2-135m")
def show(model: Annotated[str, typer.Argument(help="A cached name or a folder.")], as_json: Json = False) -> None:
    """Family, size, layout and provenance of a model; a cached one has its hashes checked."""
    from posttrain.models.inspect import describe

    record = describe(model)
    _print(record, as_json, "\n".join(f"{key}: {value}" for key, value in record.items() if key != "files"))


@app.command(epilog="Example: posttrain models merge smollm2-135m runs/sft/adapter --out merged")
def merge(
    base: Annotated[str, typer.Argument(help="The base model: a cached name or a folder.")],
    adapter: Annotated[Path, typer.Argument(help="A PEFT adapter folder.")],
    out: Annotated[Path, typer.Option(help="Where the merged model goes.", callback=output_folder)],
    as_json: Json = False,
) -> None:
    """Write base + (alpha / r) B A as a plain model folder."""
    from posttrain.models.lora import merge_adapter

    folder = merge_adapter(base, adapter, out)
    _print({"path": str(folder)}, as_json, f"merged model: {folder}")


@app.command(epilog="Example: posttrain models params smollm2-135m --rank 16 --targets attention+mlp")
def params(
    model: Annotated[str, typer.Argument(help="A cached name or a folder.")],
    rank: Annotated[int, typer.Option(min=1, help="LoRA rank r.")] = 16,
    targets: Annotated[str, typer.Option(help="attention, attention+mlp, or module names joined by commas.")] = "attention",
    as_json: Json = False,
) -> None:
    """How many parameters an adapter would train: the sum of r (d + k) beside that of d k. Reads no weights."""
    from posttrain.models.inspect import adapter_parameters

    count = adapter_parameters(model, rank, targets)
    record = {"adapter": count.adapter, "adapted_matrices": count.full, "model": count.total, "share": count.share}
    _print(
        record,
        as_json,
        f"{count.adapter:,} adapter parameters for {count.full:,} in the adapted matrices ({count.share:.2%}); model {count.total:,}",
    )
