"""`posttrain chat`: talk to a model in the terminal."""

from typing import Annotated

import typer

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog="Example: posttrain chat --model smollm2-135m --adapter runs/finops/sft/adapter  ·  /reset starts again, /quit leaves")
def chat(
    model: Annotated[str, typer.Option("--model", "-m", help="Model folder, or the name of a cached model.")],
    adapter: Annotated[str, typer.Option("--adapter", "-a", help="PEFT adapter folder.")] = "",
    system: Annotated[str, typer.Option("--system", "-s", help="System message.")] = "",
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer in tokens.")] = 512,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Sample from the most probable tokens that reach this probability.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the first answer; each later one adds 1.")] = 0,
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object when the conversation ends, and nothing before.")] = False,
) -> None:
    """Talk to a model: answers appear as they are made. Lines piped in are questions of one conversation."""
    import json
    import sys

    from posttrain.generation import LocalGenerator
    from posttrain.generation.conversation import Conversation, talk
    from posttrain.records import SamplingSettings

    generator = LocalGenerator.load(model, adapter or None, dtype=dtype, batch_size=1)
    conversation = Conversation(generator, SamplingSettings(max_new_tokens, temperature, top_p, seed=seed), system=system)
    talk(conversation, sys.stdin, None if as_json else sys.stdout, prompt=sys.stderr if sys.stdin.isatty() else None)
    if as_json:
        typer.echo(json.dumps({"messages": [{"role": turn.role, "content": turn.content} for turn in conversation.messages]}))
