"""`posttrain chat`: talk to a model in the terminal."""

from typing import Annotated

import typer

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog="Example: posttrain chat --model smollm2-135m --adapter runs/finops/sft/adapter  ·  /reset starts again, /quit leaves  ·  "
    "posttrain chat --model runs/tools/model --tools tools.py --role clerk"
)
def chat(
    model: Annotated[str, typer.Option("--model", "-m", help="Model folder, or the name of a cached model.")],
    adapter: Annotated[str, typer.Option("--adapter", "-a", help="PEFT adapter folder.")] = "",
    system: Annotated[str, typer.Option("--system", "-s", help="System message.")] = "",
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer in tokens.")] = 512,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Sample from the most probable tokens that reach this probability.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the first answer; each later one adds 1.")] = 0,
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    tools: Annotated[str, typer.Option(help="Tools the model may call: a .py, .json or .yaml file, an MCP server's URL or command.")] = "",
    role: Annotated[str, typer.Option(help="With --tools: call on behalf of this role.")] = "",
    tenant: Annotated[str, typer.Option(help="With --tools: call on behalf of this tenant.")] = "",
    constrain: Annotated[
        bool, typer.Option("--constrain", help="With --tools: only calls that fit their tool's schema can be made.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --tools: do actions without asking.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object when the conversation ends, and nothing before.")] = False,
) -> None:
    """Talk to a model: answers appear as they are made. Lines piped in are questions of one conversation."""
    import json
    import sys
    from contextlib import ExitStack

    from posttrain.generation import LocalGenerator
    from posttrain.generation.conversation import Conversation, Talker, message_rows, talk
    from posttrain.records import SamplingSettings

    sampling = SamplingSettings(max_new_tokens, temperature, top_p, seed=seed)
    with ExitStack() as stack:
        generator = LocalGenerator.load(model, adapter or None, dtype=dtype, batch_size=1)
        conversation: Talker
        if tools:
            from posttrain.episodes.conversation import ToolConversation, ask_person
            from posttrain.episodes.settings import EpisodeSettings
            from posttrain.tools import Caller, Toolbox, open_tools

            opened = stack.enter_context(open_tools(tools))
            conversation = ToolConversation(
                generator,
                sampling,
                lambda: Toolbox(opened.tools, caller=Caller(role, tenant)),
                settings=EpisodeSettings(max_tokens=generator.context_length, constrain=constrain),
                approve=None if yes else ask_person(sys.stdin, sys.stderr),
                system=system,
            )
        else:
            conversation = Conversation(generator, sampling, system=system)
        talk(conversation, sys.stdin, None if as_json else sys.stdout, prompt=sys.stderr if sys.stdin.isatty() else None)
    if as_json:
        typer.echo(json.dumps({"messages": message_rows(conversation.messages)}, ensure_ascii=False))
