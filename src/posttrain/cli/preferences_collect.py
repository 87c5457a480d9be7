"""`posttrain preferences collect`: sample answers, choose the pairs worth a label, write labelling tasks."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from posttrain.cli.output import output_file
from posttrain.cli.preferences_files import RubricFile, check_outputs, write_rows

if TYPE_CHECKING:
    from posttrain.generation import Generator

Model = Annotated[str, typer.Option("--model", "-m", help="Model folder or cached name; with --endpoint the served name.")]
Adapter = Annotated[str, typer.Option("--adapter", "-a", help="A LoRA adapter for the model.")]
Endpoint = Annotated[str, typer.Option(help="Base URL of an OpenAI-compatible server (its key in OPENAI_API_KEY).")]
Batch = Annotated[int, typer.Option(min=1, help="Rows decoded together, or requests in flight.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def collect(
    prompts: Annotated[Path, typer.Option("--prompts", "-p", help='JSONL, {"prompt": ...} or {"messages": [...]} a line.')],
    model: Model,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Comparisons to be judged; blind tasks go to OUT.tasks.jsonl.", callback=output_file)
    ],
    candidates: Annotated[int, typer.Option("--candidates", "-n", min=2, help="Answers sampled a prompt.")] = 4,
    strategy: Annotated[str, typer.Option(help="diverse, random; with --reward-model: difference, uncertain.")] = "diverse",
    pairs_per_prompt: Annotated[int, typer.Option(min=1)] = 1,
    reward_model: Annotated[str, typer.Option(help="Folder of a reward model that scores the candidates.")] = "",
    temperature: Annotated[float, typer.Option(min=0.0)] = 0.8,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 256,
    adapter: Adapter = "",
    endpoint: Endpoint = "",
    batch_size: Batch = 16,
    rubric_file: RubricFile = None,
    seed: Annotated[int, typer.Option(help="Of sampling, choice and order.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Sample candidates, leave out duplicates, choose the pairs worth a label, write blind labelling tasks.

    Example: posttrain preferences collect --prompts prompts.jsonl --model smollm2-135m --out open.jsonl  ·  labellers add judgements to
    open.jsonl.tasks.jsonl, and posttrain preferences adjudicate open.jsonl --decisions open.jsonl.tasks.jsonl --no-final puts them back.
    """
    from posttrain.feedback import labelling_tasks, load_rubric
    from posttrain.feedback.collection import candidate_requests, collect_pairs
    from posttrain.generation import answer_prompts, read_prompts
    from posttrain.generation.display import AnswerProgress
    from posttrain.records import SamplingSettings

    tasks, rubric = f"{out}.tasks.jsonl", load_rubric(rubric_file) if rubric_file else None
    check_outputs([f"{out}.answers"], [prompts])
    check_outputs([out, tasks], [prompts], new_tasks=True)
    sampling = SamplingSettings(max_new_tokens=max_new_tokens, temperature=temperature)
    requests = candidate_requests(read_prompts(prompts, sampling), candidates, seed=seed)
    generator = open_generator(model, adapter, endpoint, batch_size)
    with AnswerProgress() as progress:
        answers = answer_prompts(generator, requests, f"{out}.answers", on_answer=progress.update)
    scorer: Any = None
    if reward_model:
        from posttrain.rewards import RewardModel

        scorer = RewardModel.load(reward_model).score
    choice: Any = {"strategy": strategy, "pairs_per_prompt": pairs_per_prompt, "scorer": scorer, "seed": seed, "model": adapter or model}
    found = collect_pairs(requests, answers, **choice)
    write_rows(found.comparisons, out, card_of=prompts, nothing="no pair was chosen")
    write_rows(labelling_tasks(found.comparisons, seed=seed, rubric=rubric), tasks, nothing="no pair was chosen")
    summary = {"out": str(out), "tasks": tasks, **found.to_dict()}
    typer.echo(json.dumps(summary) if as_json else "\n".join(f"{name}: {value}" for name, value in summary.items()))


def open_generator(model: str, adapter: str, endpoint: str, batch_size: int) -> "Generator":
    """The local model, or the server at ``endpoint``."""
    from posttrain.errors import ConfigError
    from posttrain.generation import EndpointGenerator, LocalGenerator

    if endpoint and adapter:
        raise ConfigError("--adapter goes with a local model, not with --endpoint", hint="serve the adapter and name it with --model")
    if endpoint:
        return EndpointGenerator(endpoint, model, api_key=os.environ.get("OPENAI_API_KEY"), concurrency=batch_size)
    return LocalGenerator.load(model, adapter or None, batch_size=batch_size)
