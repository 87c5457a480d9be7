"""`posttrain eval`: run a suite on a model."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from posttrain.cli.output import output_folder

if TYPE_CHECKING:
    from posttrain.evaluation import ScoringModels
    from posttrain.generation import Generator

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    name="eval",
    epilog="Example: posttrain eval --suite suites/finops.yaml --model smollm2-135m --adapter runs/sft/adapter --out runs/eval-sft  ·  "
    "a server: --endpoint http://127.0.0.1:8000/v1 --model finops-v3 (its key in OPENAI_API_KEY)  ·  "
    "exit codes: 0 done, 1 suite changed since it was frozen, 2 usage, 3 infrastructure",
)
def eval_command(
    suite: Annotated[Path, typer.Option("--suite", "-s", help="The suite file.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Model folder or name of a cached model; with --endpoint the served name.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Results folder; the same command in it goes on where it was.", callback=output_folder)
    ],
    adapter: Annotated[Path | None, typer.Option("--adapter", "-a", help="A LoRA adapter for the model.")] = None,
    endpoint: Annotated[str, typer.Option(help="Base URL of an OpenAI-compatible server to ask instead of a local model.")] = "",
    batch_size: Annotated[int, typer.Option(min=1, help="Rows decoded together, or requests in flight.")] = 16,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of answers to reuse; reused answers have no latency.", callback=output_folder)
    ] = None,
    reference: Annotated[Path | None, typer.Option(help="The model that drift is measured from, for suites with a `drift` score.")] = None,
    reward: Annotated[list[str] | None, typer.Option(metavar="ROLE=FOLDER", help="Who plays a reward model the suite names.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object: the summary.")] = False,
) -> None:
    """Ask a model every case of a suite, score the answers, write results and a summary with intervals."""
    from posttrain.evaluation import evaluate, load_suite, summary_lines

    loaded = load_suite(suite)
    from posttrain.recipes.display import TerminalDisplay  # only now: it brings torch, and a wrong suite should not wait for it

    name = Path(adapter or model).name
    with TerminalDisplay() as display:
        display.step(1, f"{loaded.config.name} {loaded.config.version} on {adapter or model}", "run")
        result = evaluate(
            loaded,
            _open(model, adapter, endpoint, batch_size),
            out_dir=out,
            cache_dir=cache,
            on_progress=lambda p: display.advance(p.num_done, p.num_total, f"{p.num_cached + p.num_reused} from before"),
            name=name,
            trained_at=None if endpoint else _trained_at(model, adapter),
            concurrency=batch_size,
            models=_models("" if endpoint else model, adapter, reference, reward or []) if loaded.needs_models else None,
        )
        display.step(1, f"{loaded.config.name} on {name}", "done")
    text = json.dumps(dict(result.summary), ensure_ascii=False) if as_json else "\n".join(summary_lines(result.summary))
    typer.echo(text if as_json else f"{text}\nresults: {result.folder}")


def _open(model: str, adapter: Path | None, endpoint: str, batch_size: int) -> "Generator":
    from posttrain.errors import ConfigError
    from posttrain.generation import EndpointGenerator, LocalGenerator

    if endpoint and adapter:
        raise ConfigError("--adapter goes with a local model, not with --endpoint", hint="serve the adapter and name it with --model")
    if endpoint:
        return EndpointGenerator(endpoint, model, api_key=os.environ.get("OPENAI_API_KEY"), concurrency=batch_size)
    return LocalGenerator.load(model, adapter, batch_size=batch_size)


def _models(model: str, adapter: Path | None, reference: Path | None, rewards: list[str]) -> "ScoringModels":
    from posttrain.errors import ConfigError
    from posttrain.evaluation import ScoringModels
    from posttrain.models import find_model

    wrong = next((entry for entry in rewards if not all(entry.partition("=")[::2])), None)
    if wrong is not None:
        raise ConfigError(f"--reward {wrong} is not ROLE=FOLDER", hint="for example: --reward held-out=runs/held-out/model")
    roles = {role: find_model(folder) for role, _, folder in (entry.partition("=") for entry in rewards)}
    return ScoringModels(find_model(model) if model else None, adapter, find_model(reference) if reference else None, roles)


def _trained_at(model: str, adapter: Path | None) -> str | None:
    """When training of an adapter, or of a model that a stage wrote, began, as far as its files tell; None for other models.

    A recipe notes it beside the weights. Else it is when the weights were written, before which it began: a suite frozen later was
    frozen too late. A plain copy makes them look younger.
    """
    from posttrain.models import find_model

    folder = adapter or find_model(model)
    noted = folder.parent / "began.json"
    if noted.is_file():
        return str(json.loads(noted.read_text(encoding="utf-8"))["trained_at"])
    weights = sorted(folder.glob("adapter_model.safetensors" if adapter else "*.safetensors"))
    if not weights or not (adapter or (folder.parent / "result.json").is_file()):
        return None
    return datetime.fromtimestamp(weights[0].stat().st_mtime, UTC).isoformat()
