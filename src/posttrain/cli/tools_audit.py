"""`posttrain tools audit`: read and verify the record of calls."""

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    help="Read and verify the record of calls.",
    epilog="Example: posttrain tools audit verify calls.jsonl",
)

Log = Annotated[Path, typer.Argument(help="An audit log.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command(epilog="Example: posttrain tools audit verify calls.jsonl --head 3f2a...  ·  exit codes: 0 as written, 1 changed")
def verify(
    log: Log,
    head: Annotated[str, typer.Option(help="A head kept from earlier: lines cut off at the end, or a log written anew, show too.")] = "",
    as_json: Json = False,
) -> None:
    """Recompute the chain of hashes: a line that was changed, added, moved or removed is named."""
    from dataclasses import asdict

    from posttrain.tools import verify_audit

    report = verify_audit(log, head)
    if as_json:
        typer.echo(json.dumps({"ok": not report.problems, **asdict(report)}))
    else:
        lines = [*report.problems, *(f"note: {note}" for note in report.notes)]
        verdict = "not as it was written" if report.problems else "as it was written"
        typer.echo("\n".join([*lines, f"{report.num_lines} lines, {verdict}; head {report.head}"]))
    raise typer.Exit(1 if report.problems else 0)


@app.command(epilog="Example: posttrain tools audit show calls.jsonl --tool request_transfer")
def show(
    log: Log,
    tool: Annotated[str, typer.Option(help="Only calls of this tool.")] = "",
    as_json: Json = False,
) -> None:
    """Print the calls: time, caller, tool, arguments, what came of it."""
    from posttrain.tools import audit_lines, read_audit

    lines = [line for line in read_audit(log) if not tool or line.get("tool") == tool]
    typer.echo(json.dumps({"lines": lines}, ensure_ascii=False) if as_json else "\n".join(audit_lines(lines)))
