"""`posttrain tools`: show, check and call tools from a file or an MCP server; verify the record of calls."""

import json
from pathlib import Path
from typing import Annotated

import typer

from posttrain.cli import tools_audit
from posttrain.cli.output import output_file

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    help="Show, check and call tools; verify the record of calls.",
    epilog="Example: posttrain tools show tools.py  ·  posttrain tools show 'mcp:python server.py'",
)
app.add_typer(tools_audit.app, name="audit")

Source = Annotated[str, typer.Argument(help="A .py, .json or .yaml file, the URL of an MCP server, or 'mcp:COMMAND ...' to start one.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command(epilog="Example: posttrain tools show tools.py --json > recorded.json")
def show(source: Source, as_json: Json = False) -> None:
    """Print each tool: version, who may call it, arguments. With --json the record that `check --against` reads."""
    from posttrain.tools import open_tools, record_of, tool_lines

    with open_tools(source) as opened:
        record = record_of(opened.tools)
        if as_json:
            typer.echo(json.dumps(record | {"left_out": opened.left_out}, ensure_ascii=False))
        else:
            left = [f"left out: {name}: {why}" for name, why in opened.left_out.items()]
            typer.echo("\n".join([*tool_lines(opened.tools), *left, f"{len(opened.tools)} tools, version {record['version']}"]))


@app.command(epilog="Example: posttrain tools check tools.py --against recorded.json  ·  exit codes: 0 as recorded, 1 changed, 2 not valid")
def check(
    source: Source,
    against: Annotated[Path | None, typer.Option(help="What `posttrain tools show --json` printed earlier.")] = None,
    as_json: Json = False,
) -> None:
    """Check that every schema is valid and, with --against, that no tool was changed, added or removed since."""
    from posttrain.tools import open_tools, read_record, record_of, tool_changes

    with open_tools(source) as opened:
        changes = tool_changes(read_record(against), opened.tools) if against is not None else []
        version = record_of(opened.tools)["version"]
        lines = [*changes, *(f"left out: {name}: {why}" for name, why in opened.left_out.items())]
        if as_json:
            names = [item.name for item in opened.tools]
            typer.echo(json.dumps({"ok": not lines, "version": version, "tools": names, "changes": changes, "left_out": opened.left_out}))
        else:
            typer.echo("\n".join([*lines, f"{len(opened.tools)} tools, version {version}"]))
    raise typer.Exit(1 if lines else 0)


@app.command(
    epilog="""Example: posttrain tools call tools.py get_balance '{"account": "1000"}' --role clerk --tenant bank_A  ·  exit 1: error"""
)
def call(
    source: Source,
    name: Annotated[str, typer.Argument(help="The tool.")],
    arguments: Annotated[str, typer.Argument(help="Its arguments, a JSON object.")] = "{}",
    role: Annotated[str, typer.Option(help="On behalf of this role.")] = "",
    tenant: Annotated[str, typer.Option(help="On behalf of this tenant.")] = "",
    audit: Annotated[Path | None, typer.Option(help="Append the call to this log.", callback=output_file)] = None,
    episode: Annotated[str, typer.Option(help="With --audit: an action done before in this episode is not done again.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check an action and say what it would do, without doing it.")] = False,
    as_json: Json = False,
) -> None:
    """Call one tool as a model would, with every check, and print what the model would read."""
    from posttrain.tools import call_once

    result = call_once(source, name, arguments, role=role, tenant=tenant, audit=audit, episode=episode, dry_run=dry_run)
    typer.echo(json.dumps(result) if as_json else f"[{result['status']}] {result['content']}")
    raise typer.Exit(1 if result["is_error"] else 0)
