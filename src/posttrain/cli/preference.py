"""`posttrain preference`: align a model with pairs or labelled answers."""

import json
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog="Example: posttrain preference --model runs/sft/model --data data/pairs.jsonl --out runs/dpo --lora-rank 16 "
    "--set objective.beta=0.05  ·  posttrain preference -m smollm2-135m -d pairs.jsonl -o runs/kto --objective kto --set unpair=true"
)
def preference(
    model: Annotated[str, typer.Option("--model", "-m", help="Start model and reference: a folder, or the name of a cached model.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Output folder; the same command in it goes on where it was.")],
    data: Annotated[str, typer.Option("--data", "-d", help="Pairs, or single labelled answers for kto; any shape check reads.")] = "",
    objective: Annotated[str, typer.Option(help="dpo, robust_dpo, ipo, orpo, simpo or kto.")] = "",
    lora_rank: Annotated[int, typer.Option(help="Rank of a low-rank adapter; 0 trains every weight.", min=0)] = 0,
    lora_targets: Annotated[str, typer.Option(help="attention or attention+mlp; left out: as in the YAML file, or attention.")] = "",
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
    from posttrain.config import apply_overrides, parse, read_yaml
    from posttrain.lineage import LineageStore, build_loggers
    from posttrain.recipes.display import TerminalDisplay
    from posttrain.stages.preference import PreferenceConfig, run_preference

    settings: dict[str, Any] = read_yaml(config) if config else {}
    if data:
        settings["data"] = data
    if objective:
        settings["objective"] = {"name": objective}
    elif isinstance(settings.get("objective", "dpo"), str):
        settings["objective"] = {"name": settings.get("objective", "dpo")}
    if lora_rank or (lora_targets and settings.get("lora")):
        given = {"rank": lora_rank, "targets": lora_targets}
        settings["lora"] = {**(settings.get("lora") or {}), **{name: value for name, value in given.items() if value}}
    settings = apply_overrides(settings, overrides or [])
    checked = parse(PreferenceConfig, settings, where=config or "preference")
    with TerminalDisplay() as display, closing(build_loggers(logger or ["jsonl"], out, report=display.say)) as loggers:
        display.step(1, f"align {model} by {checked.objective_name}", "run")
        result = run_preference(checked, model, out, lineage=LineageStore(store), progress=display, logger=loggers)
        display.step(1, f"align {model} by {checked.objective_name}", "done")
    written = result.adapter or result.model
    if as_json:
        typer.echo(json.dumps({"written": str(written), "id": result.id, "metrics": dict(result.metrics)}))
    else:
        first, last = result.metrics["first_loss"], result.metrics["final_loss"]
        typer.echo(f"{written}\nloss {first:.4f} -> {last:.4f} in {result.metrics['steps']:.0f} steps; lineage {result.id}")
