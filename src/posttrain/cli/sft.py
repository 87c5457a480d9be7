"""`posttrain sft`: supervised fine-tuning of a model on a file of demonstrations."""

from pathlib import Path
from typing import Annotated

import typer

from posttrain.cli.output import output_folder
from posttrain.cli.stage_command import loss_text, result_json, run_stage, stage_settings

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog="Example: posttrain sft --model smollm2-135m --data data/finops.jsonl --out runs/sft --lora-rank 16 --set training.epochs=2  ·  "
    "several processes: torchrun --nproc-per-node 2 -m posttrain sft ..."
)
def sft(
    model: Annotated[str, typer.Option("--model", "-m", help="Model folder, or the name of a cached model.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Output folder; the same command in it goes on where it was.", callback=output_folder)
    ],
    data: Annotated[str, typer.Option("--data", "-d", help="Demonstrations: JSONL, JSON, CSV, Parquet or a datasets folder.")] = "",
    lora_rank: Annotated[int, typer.Option(help="Rank of a low-rank adapter; left out: every weight trains.", min=0)] = 0,
    lora_targets: Annotated[str, typer.Option(help="attention, attention+mlp, or module names joined by commas; needs an adapter.")] = "",
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
    from posttrain.config import apply_overrides, parse
    from posttrain.stages.sft import SftConfig, run_sft

    settings = stage_settings(config, {"data": data}, lora_rank=lora_rank, lora_targets=lora_targets)
    checked = parse(SftConfig, apply_overrides(settings, overrides or []), where=config or "sft")
    result = run_stage(run_sft, checked, model, out, title=f"fine-tune {model}", store=store, loggers=logger)
    typer.echo(result_json(result) if as_json else loss_text(result))
