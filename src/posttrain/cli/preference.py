"""`posttrain preference`: align a model with pairs or labelled answers."""

from pathlib import Path
from typing import Annotated

import typer

from posttrain.cli.output import output_folder
from posttrain.cli.stage_command import loss_text, result_json, run_stage, stage_settings

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog="Example: posttrain preference --model runs/sft/model --data data/pairs.jsonl --out runs/dpo --lora-rank 16 "
    "--set objective.beta=0.05  ·  posttrain preference -m smollm2-135m -d pairs.jsonl -o runs/kto --objective kto --set unpair=true"
)
def preference(
    model: Annotated[str, typer.Option("--model", "-m", help="Start model and reference: a folder, or the name of a cached model.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Output folder; the same command in it goes on where it was.", callback=output_folder)
    ],
    data: Annotated[str, typer.Option("--data", "-d", help="Pairs, or single labelled answers for kto; any shape check reads.")] = "",
    objective: Annotated[str, typer.Option(help="dpo, robust_dpo, ipo, orpo, simpo or kto.")] = "",
    lora_rank: Annotated[int, typer.Option(help="Rank of a low-rank adapter; left out: every weight trains.", min=0)] = 0,
    lora_targets: Annotated[str, typer.Option(help="attention, attention+mlp, or module names joined by commas; needs an adapter.")] = "",
    config: Annotated[str, typer.Option(help="YAML file with the settings of a recipe's preference stage.")] = "",
    overrides: Annotated[list[str] | None, typer.Option("--set", help="A setting: objective.beta=0.05. May be repeated.")] = None,
    store: Annotated[Path, typer.Option("--store", help="The lineage store (an SQLite file).")] = Path("runs/lineage.db"),
    logger: Annotated[list[str] | None, typer.Option(help="Where curves go: jsonl, mlflow. May be repeated.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Preference alignment (DPO and its family, KTO), full or LoRA.

    Writes OUT/model, or OUT/adapter in PEFT's format. Reference log-probabilities are computed once, into OUT/reference or the folder of
    --set reference_cache=DIR. Stopped by Ctrl-C, kill or a crash, the same command goes on where it was. The data needs a card beside it.
    """
    from posttrain.config import apply_overrides, parse
    from posttrain.stages.preference import PreferenceConfig, run_preference

    settings = stage_settings(config, {"data": data, "objective": objective}, lora_rank=lora_rank, lora_targets=lora_targets)
    if isinstance(settings.get("objective", "dpo"), str):
        settings["objective"] = {"name": settings.get("objective", "dpo")}
    checked = parse(PreferenceConfig, apply_overrides(settings, overrides or []), where=config or "preference")
    title = f"align {model} by {checked.objective_name}"
    result = run_stage(run_preference, checked, model, out, title=title, store=store, loggers=logger)
    typer.echo(result_json(result) if as_json else loss_text(result))
