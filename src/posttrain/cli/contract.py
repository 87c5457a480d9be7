"""`posttrain contract`: freeze, check and diff the chat contract (template + tokenizer + special tokens) of a model."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from posttrain.cli.output import output_file

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    help="Freeze, check and diff the chat contract of a model.",
    epilog="Example: posttrain contract freeze smollm2-135m -o contract.json",
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Model = Annotated[Path, typer.Argument(help="A model, adapter or tokenizer folder.")]
Side = Annotated[Path, typer.Argument(help="A model folder or a frozen record.")]


@app.command(epilog="Example: posttrain contract freeze models/smollm2-135m -o contracts/finops.json")
def freeze(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the record.", callback=output_file)],
    as_json: Json = False,
) -> None:
    """Write hashes, template, special tokens and golden conversations (text and token ids) to a file."""
    from posttrain.chat import ChatContract
    from posttrain.config.files import write_json

    record = ChatContract.load(model).record()
    write_json(output, record)
    written = f"{record['hash']}\n{output}: {len(record['golden'])} golden conversations"
    typer.echo(json.dumps({"hash": record["hash"], "path": str(output)}) if as_json else written)


@app.command(epilog="Example: posttrain contract check runs/finops/adapter contracts/finops.json")
def check(
    model: Model,
    record: Annotated[Path, typer.Argument(help="What `contract freeze` wrote, or a folder with contract.json.")],
    as_json: Json = False,
) -> None:
    """Exit 0 when the model has the frozen contract, 2 with the first differing token when it has another."""
    from posttrain.chat import ChatContract, load_record

    frozen = load_record(record)
    contract = ChatContract.load(model)
    contract.check_same(frozen, what=str(record))
    typer.echo(json.dumps({"same": True, "hash": contract.hash}) if as_json else f"same contract: {contract.hash}")


@app.command(epilog="Example: posttrain contract diff models/smollm2-135m runs/finops/adapter")
def diff(before: Side, after: Side, as_json: Json = False) -> None:
    """Show how two contracts differ: template, special tokens, first differing token. Exit 1 when they do."""
    from posttrain.chat import describe_difference

    lines = describe_difference(_record(before), _record(after))
    typer.echo(json.dumps({"same": not lines, "difference": lines}) if as_json else "\n".join(lines) or "same contract")
    if lines:
        raise typer.Exit(1)


def _record(path: Path) -> dict[str, Any]:
    from posttrain.chat import ChatContract, load_record

    return load_record(path) if path.is_file() else ChatContract.load(path).record()
