"""`posttrain sweep`: a preference stage over beta and learning rate, target gain against drift."""

import json
from pathlib import Path
from typing import Annotated

import typer

from posttrain.cli.output import output_folder

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog="Examples: posttrain sweep recipes/preference.yaml --beta 0.03,0.1,0.3 --learning-rate 1e-6,5e-6  ·  "
    "posttrain sweep dpo.yaml --model runs/sft/model --test held-out.jsonl --beta 0.05,0.2"
)
def sweep(
    file: Annotated[Path, typer.Argument(help="A recipe that has been run up to the stage, or the settings of a preference stage.")],
    stage: Annotated[str, typer.Option(help="Name of the recipe's preference stage, where there are several.")] = "",
    beta: Annotated[str, typer.Option(help="Values of the objective's beta: 0.03,0.1,0.3.")] = "",
    learning_rate: Annotated[str, typer.Option(help="Learning rates: 1e-6,5e-6.")] = "",
    test: Annotated[str, typer.Option(help="Held-out pairs; left out: a tenth of the prompts is held out of the data.")] = "",
    model: Annotated[str, typer.Option("--model", "-m", help="Start model; left out: the one the recipe's run made.")] = "",
    run_dir: Annotated[str, typer.Option("--run", help="The recipe's output folder; runs/<name> when left out.")] = "",
    out: Annotated[str, typer.Option("--out", "-o", help="Output folder; runs/sweep-<stage> when left out.", callback=output_folder)] = "",
    samples: Annotated[int, typer.Option(help="Fresh answers a point, for drift.", min=2)] = 64,
    sample_tokens: Annotated[int, typer.Option(help="Longest fresh answer in tokens.", min=1)] = 64,
    keep_models: Annotated[bool, typer.Option(help="Keep every point's model and checkpoints.")] = False,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="A setting of the file. May be repeated.")] = None,
    store: Annotated[Path, typer.Option("--store", help="The lineage store (an SQLite file).")] = Path("runs/lineage.db"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train and measure a preference stage at every beta and learning rate.

    All points share one pass over the reference. Writes OUT/sweep.json and OUT/sweep.html, a page that opens offline: accuracy on
    held-out pairs against KL to the start model, with 95 % intervals. Stopped at any time, the same command goes on; finished points
    are reused.
    """
    betas, rates = _numbers(beta, "--beta"), _numbers(learning_rate, "--learning-rate")
    from posttrain.lineage import LineageStore
    from posttrain.recipes import TerminalDisplay
    from posttrain.recipes.sweep import SampleSettings, SweepOptions, open_source, run_sweep, sweep_text

    options = SweepOptions(betas, rates, test, SampleSettings(samples, sample_tokens), keep_models)
    source = open_source(file, stage=stage, model=model, run_dir=run_dir, overrides=overrides or [])
    folder = Path(out or f"runs/sweep-{source.name}")
    with TerminalDisplay() as display:
        report = run_sweep(source, options, folder, display=display, lineage=LineageStore(store))
    page = str(folder / "sweep.html")
    typer.echo(json.dumps({**report, "page": page}, ensure_ascii=False) if as_json else f"{sweep_text(report)}\n{page}")


def _numbers(text: str, option: str) -> tuple[float, ...]:
    from posttrain.errors import ConfigError

    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise ConfigError(f"{option} {text}: not a list of numbers", hint="for example 0.03,0.1,0.3") from None
