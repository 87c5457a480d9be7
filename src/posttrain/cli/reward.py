"""`posttrain reward`: train, eval, probe, score."""

from pathlib import Path
from typing import Annotated

import typer

from posttrain.cli import reward_score, reward_use
from posttrain.cli.output import output_folder
from posttrain.cli.stage_command import result_json, run_stage, stage_settings

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    help="Train, evaluate, probe and use reward models.",
    epilog="Example: posttrain reward train --model smollm2-135m --data pairs.jsonl --out runs/reward --lora-rank 16",
)
for _command, _example in (
    (
        reward_use.eval_command,
        "posttrain reward eval runs/reward/model --data llmbar=dataset.json --data hh=test.jsonl.gz --html reward.html",
    ),
    (reward_use.probe, "posttrain reward probe runs/reward/model --data pairs.jsonl"),
    (reward_score.score, "posttrain reward score runs/reward/model --data pairs.jsonl --out scores.jsonl"),
):
    app.command(_command.__name__.removesuffix("_command"), epilog=f"Example: {_example}")(_command)


@app.command(
    epilog="Example: posttrain reward train -m smollm2-135m -d pairs.jsonl -o runs/reward --lora-rank 16 --test llmbar=dataset.json  ·  "
    "the spread over seeds: --set seeds=[18,19]"
)
def train(
    model: Annotated[str, typer.Option("--model", "-m", help="Model folder or cached name: a causal model, or a reward model to go on.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Output folder; the same command in it goes on where it was.", callback=output_folder)
    ],
    data: Annotated[str, typer.Option("--data", "-d", help="Preference pairs, in any shape `posttrain check` reads.")] = "",
    calibration: Annotated[str, typer.Option(help="Pairs for the temperature alone; left out: a tenth of the prompts.")] = "",
    test: Annotated[list[str] | None, typer.Option(help="NAME=FILE of test pairs, one a slice; left out: a tenth of the prompts.")] = None,
    lora_rank: Annotated[int, typer.Option(help="Rank of a low-rank adapter, merged when saved; 0 trains every weight.", min=0)] = 0,
    config: Annotated[str, typer.Option(help="YAML file with the settings of a recipe's reward_model stage.")] = "",
    overrides: Annotated[list[str] | None, typer.Option("--set", help="A setting: training.epochs=2. May be repeated.")] = None,
    store: Annotated[Path, typer.Option("--store", help="The lineage store (an SQLite file).")] = Path("runs/lineage.db"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train a reward model on pairs; writes OUT/model (plain transformers, with its calibration) and OUT/evaluation.json.

    The data needs a card beside it (FILE.card.yaml). A prompt is never in two of training, calibration and test.
    """
    from posttrain.config import apply_overrides, parse
    from posttrain.stages import RewardModelConfig, run_reward_model
    from posttrain.stages.preference_files import named_files

    given = {"data": data, "calibration": calibration, "test": named_files(test or [])}
    settings = {"training": {}, **stage_settings(config, given, lora_rank=lora_rank)}
    checked = parse(RewardModelConfig, apply_overrides(settings, overrides or []), where=config or "reward train")
    result = run_stage(run_reward_model, checked, model, out, title=f"reward model from {model}", store=store)
    if as_json:
        typer.echo(result_json(result))
        return
    typer.echo(f"{result.model}; lineage {result.id}")
    if (accuracy := result.metrics.get("test_accuracy")) is not None:
        low, high = result.metrics["test_accuracy_low"], result.metrics["test_accuracy_high"]
        typer.echo(
            f"accuracy {accuracy:.3f} [{low:.3f}, {high:.3f}] on {result.metrics['test_pairs']:.0f} pairs; evaluation.json has the rest"
        )
