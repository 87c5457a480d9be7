"""`posttrain generate`: answers for a file of prompts."""

import json
from pathlib import Path
from typing import Annotated

import typer

from posttrain.cli.output import output_file

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog="Example: posttrain generate --model smollm2-135m --prompts prompts.jsonl --out answers.jsonl --temperature 0.7  ·  "
    'a line of prompts.jsonl is {"prompt": "..."} or {"messages": [...]}, with an optional "id"  ·  '
    "posttrain generate -m smollm2-135m -p prompts.jsonl -o answers.jsonl --schema answer.schema.json"
)
def generate(
    model: Annotated[str, typer.Option("--model", "-m", help="Model folder, name of a cached model, or the endpoint's model name.")],
    prompts: Annotated[Path, typer.Option("--prompts", "-p", help="Prompts, in any format `posttrain check` reads.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Answers, JSONL; prompts answered in it are skipped.", callback=output_file)],
    adapter: Annotated[str, typer.Option("--adapter", "-a", help="PEFT adapter folder.")] = "",
    endpoint: Annotated[str, typer.Option(help="OpenAI-compatible server to ask, for example http://localhost:8000/v1.")] = "",
    api_key: Annotated[str, typer.Option(help="The endpoint's key.", envvar="OPENAI_API_KEY", show_envvar=True)] = "",
    system: Annotated[str, typer.Option(help="System message for prompts that have none.")] = "",
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer in tokens.")] = 256,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Sample from the most probable tokens that reach this probability.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Sample from this many most probable tokens; 0: all.")] = 0,
    stop: Annotated[list[str] | None, typer.Option(help="End an answer before this text. May be repeated.")] = None,
    seed: Annotated[int, typer.Option(help="Request i is sampled with seed + i.")] = 0,
    schema: Annotated[Path | None, typer.Option(help="Every answer is valid under the JSON Schema in this file.")] = None,
    regex: Annotated[str, typer.Option(help="Every answer matches this pattern as a whole.")] = "",
    lark: Annotated[Path | None, typer.Option(help="Every answer matches the Lark grammar in this file.")] = None,
    tools: Annotated[str, typer.Option(help="Tools for prompts that bring none: a .py, .json or .yaml file, or an MCP server.")] = "",
    call: Annotated[str, typer.Option(help="Calls are valid under their tool: auto, required, none, or the name of a tool.")] = "",
    logprobs: Annotated[bool, typer.Option("--logprobs", help="Write token ids and log-probabilities too.")] = False,
    batch_size: Annotated[int, typer.Option(help="Requests answered together.", min=1)] = 16,
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Answer every prompt of a file. Stopped at any point, the same command goes on where it was."""
    import dataclasses
    from contextlib import nullcontext

    from posttrain.errors import ConfigError
    from posttrain.generation import EndpointGenerator, Generator, LocalGenerator, answer_prompts, read_prompts
    from posttrain.generation.display import AnswerProgress
    from posttrain.generation.prompt_file import read_constraint
    from posttrain.records import SamplingSettings
    from posttrain.tools import open_tools

    sampling = SamplingSettings(max_new_tokens, temperature, top_p, top_k, tuple(stop or ()), seed, logprobs)
    constraint = read_constraint(schema=schema, regex=regex, lark=lark, call=call)
    with open_tools(tools) if tools else nullcontext() as opened:
        signatures = tuple(tool.signature for tool in opened.tools) if opened else ()
    requests = [
        dataclasses.replace(
            request,
            sampling=dataclasses.replace(sampling, seed=seed + i),
            tools=request.tools or signatures,
            constraint=constraint,
        )
        for i, request in enumerate(read_prompts(prompts, sampling, system=system))
    ]
    generator: Generator
    if endpoint and (adapter or dtype != "auto"):
        raise ConfigError("--adapter and --dtype are of a local model, and --endpoint asks a server", hint="leave them out")
    if endpoint:
        generator = EndpointGenerator(endpoint, model, api_key=api_key or None, concurrency=batch_size)
    else:
        generator = LocalGenerator.load(model, adapter or None, dtype=dtype, batch_size=batch_size)
    with AnswerProgress() as progress:
        rows = answer_prompts(generator, requests, out, on_answer=progress.update)
    tokens = sum(row["num_completion_tokens"] for row in rows)
    if as_json:
        typer.echo(json.dumps({"out": str(out), "answers": len(rows), "answered_now": progress.num_new, "completion_tokens": tokens}))
    else:
        typer.echo(f"{out}: {len(rows)} answers ({progress.num_new} now), {tokens} tokens")
