"""`posttrain ppo`: reinforcement learning from a reward model, with the KL brake on."""

import json
from pathlib import Path
from typing import Annotated

import typer

from posttrain.cli.output import output_folder
from posttrain.cli.stage_command import result_json, run_stage, stage_settings

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog="Example: posttrain ppo --model runs/sft/model --data prompts.jsonl --held-out held_out.jsonl --reward-model runs/reward/model "
    "--held-out-reward-model runs/reward2/model --out runs/ppo --lora-rank 16 --set kl_budget=8"
)
def ppo(
    model: Annotated[str, typer.Option("--model", "-m", help="Model folder, or the name of a cached model.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Output folder; the same command in it goes on where it was.", callback=output_folder)
    ],
    data: Annotated[str, typer.Option("--data", "-d", help="Prompts: JSONL with prompt or messages, or a file of pairs.")] = "",
    reward_model: Annotated[str, typer.Option(help="Folder of the reward model to train against.")] = "",
    held_out: Annotated[str, typer.Option(help="Prompts that are not trained on, to measure the gain.")] = "",
    held_out_reward_model: Annotated[str, typer.Option(help="A second reward model, only watched.")] = "",
    lora_rank: Annotated[int, typer.Option(help="Rank of the adapters; 0 trains every weight.", min=0)] = 0,
    config: Annotated[str, typer.Option(help="YAML file with the settings of a recipe's ppo stage.")] = "",
    overrides: Annotated[list[str] | None, typer.Option("--set", help="A setting: kl_budget=8. May be repeated.")] = None,
    store: Annotated[Path, typer.Option("--store", help="The lineage store (an SQLite file).")] = Path("runs/lineage.db"),
    logger: Annotated[list[str] | None, typer.Option(help="Where curves go: jsonl, mlflow. May be repeated.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Reinforcement learning from a reward model (PPO), full or LoRA.

    Writes OUT/model, or OUT/adapter in PEFT's format, with OUT/result.json and OUT/answers.jsonl (before and after). Stops early when the
    KL budget is spent or the held-out reward falls while the reward rises. Killed, the same command goes on from the last checkpoint.
    """
    from posttrain.config import apply_overrides, parse
    from posttrain.stages import PpoConfig, run_ppo

    given = {"data": data, "reward_model": reward_model, "held_out": held_out, "held_out_reward_model": held_out_reward_model}
    settings = stage_settings(config, given, lora_rank=lora_rank)
    checked = parse(PpoConfig, apply_overrides(settings, overrides or []), where=config or "ppo")
    result = run_stage(run_ppo, checked, model, out, title=f"PPO on {model}", store=store, loggers=logger)
    stopped = json.loads((out / "result.json").read_text(encoding="utf-8"))["stopped"]
    if as_json:
        typer.echo(result_json(result, stopped=stopped))
        return
    numbers = result.metrics
    gain = f"{numbers['reward_gain']:+.3f} [{numbers['reward_gain_low']:+.3f}, {numbers['reward_gain_high']:+.3f}]"
    moved = f"reward {gain}, KL {numbers['kl']:.2f} nats per answer, {numbers['updates']:.0f} updates"
    typer.echo(f"{result.adapter or result.model}\n{moved}; lineage {result.id}")
    if stopped:
        typer.echo(f"stopped early: {stopped}")
