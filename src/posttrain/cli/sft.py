"""`posttrain sft`: supervised fine-tuning of a model on a file of demonstrations."""

import json
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog="Example: posttrain sft --model smollm2-135m --data data/finops.jsonl --out runs/sft --lora-rank 16 --set training.epochs=2  ·  "
    "several processes: torchrun --nproc-per-node 2 -m posttrain sft ..."
)
def sft(
    model: Annotated[str, typer.Option("--model", "-m", help="Model folder, or the name of a cached model.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Output folder; the same command in it goes on where it was.")],
    data: Annotated[str, typer.Option("--data", "-d", help="Demonstrations: JSONL, JSON, CSV, Parquet or a datasets folder.")] = "",
    lora_rank: Annotated[int, typer.Option(help="Rank of a low-rank adapter; 0 trains every weight.", min=0)] = 0,
    lora_targets: Annotated[str, typer.Option(help="attention or attention+mlp.")] = "attention",
    config: Annotated[str, typer.Option(help="YAML file with the settings of a recipe's sft stage.")] = "",
    overrides: Annotated[list[str] | None, typer.Option("--set", help="A setting: training.epochs=2. May be repeated.")] = None,
    store: Annotated[Path, typer.Option("--store", help="The lineage store (an SQLite file).")] = Path("runs/lineage.db"),
    logger: Annotated[list[str] | None, typer.Option(help="Where curves go: jsonl, mlflow. May be repeated.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Supervised fine-tuning, full or LoRA.

    Writes OUT/model, or OUT/adapter in PEFT's format. Stopped by Ctrl-C, kill or a crash, the same command goes on from the last
    checkpoint. The data needs a card beside it (FILE.card.yaml) that says where it came from and that it may be used.
    """
    from posttrain.config import apply_overrides, parse, read_yaml
    from posttrain.lineage import LineageStore, build_loggers
    from posttrain.recipes.display import TerminalDisplay
    from posttrain.stages.sft import SftConfig, run_sft

    settings: dict[str, Any] = read_yaml(config) if config else {}
    if data:
        settings["data"] = data
    if lora_rank:
        settings["lora"] = {"rank": lora_rank, "targets": lora_targets}
    settings = apply_overrides(settings, overrides or [])
    checked = parse(SftConfig, settings, where=config or "sft")
    with TerminalDisplay() as display, closing(build_loggers(logger or ["jsonl"], out, report=display.say)) as loggers:
        display.step(1, f"fine-tune {model}", "run")
        result = run_sft(checked, model, out, lineage=LineageStore(store), progress=display, logger=loggers)
        display.step(1, f"fine-tune {model}", "done")
    written = result.adapter or result.model
    if as_json:
        typer.echo(json.dumps({"written": str(written), "id": result.id, "metrics": dict(result.metrics)}))
    else:
        first, last = result.metrics["first_loss"], result.metrics["final_loss"]
        typer.echo(f"{written}\nloss {first:.4f} -> {last:.4f} in {result.metrics['steps']:.0f} steps; lineage {result.id}")
