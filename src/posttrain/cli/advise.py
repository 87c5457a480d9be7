"""`posttrain advise`: which method the data at hand calls for, and why."""

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog="Example: posttrain advise data/pairs.jsonl --model smollm2-135m --memory-gb 16")
def advise(
    data: Annotated[Path, typer.Argument(help="Demonstrations, pairs, labels, comparisons: any file `posttrain check` reads.")],
    model: Annotated[str | None, typer.Option("--model", "-m", help="The start model, to see what fits.")] = None,
    memory_gb: Annotated[float | None, typer.Option("--memory-gb", min=0.1, help="Memory at hand, GiB.")] = None,
    run: Annotated[Path | None, typer.Option(help="A run whose evidence counts too, such as one whose gains have flattened.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Recommend a method from the data (paired or thumbs, how many, how noisy, how long) and the memory; say what would change it."""
    from posttrain.recipes.advise import advise as read

    advice = read(data, model=model, memory_gb=memory_gb, run=run)
    typer.echo(json.dumps(advice.dump(), ensure_ascii=False) if as_json else "\n".join(advice.lines()))
