"""`posttrain check`: what a data set trains under a model's chat contract."""

import json
import sys
from pathlib import Path
from typing import Annotated, get_args

import typer

app = typer.Typer(rich_markup_mode=None, add_completion=False)
PROBLEMS = ("refused", "trains-nothing", "truncated", "unprinted")


@app.command(
    epilog="Example: posttrain check data/finops.jsonl --model models/smollm2-135m --max-length 1024 --sample 2  ·  "
    "exit codes: 0 every row trains, 1 rows train nothing, would be truncated, cannot be masked or printed, 2 bad data or contract"
)
def check(
    data: Annotated[Path, typer.Argument(help="Demonstrations, pairs or labels: JSONL, JSON, CSV, Parquet, gz, datasets folder.")],
    model: Annotated[Path, typer.Option("--model", "-m", help="A model or tokenizer folder, or a cached model.")],
    mask: Annotated[str, typer.Option(help="What is supervised: assistant (every turn), completion, last.")] = "assistant",
    max_length: Annotated[int | None, typer.Option(min=1, help="Longest row in tokens; left out: the model's positions.")] = None,
    sample: Annotated[int, typer.Option(min=0, help="Show this many rows, supervised tokens coloured.")] = 1,
    allow: Annotated[list[str] | None, typer.Option(help=f"Do not fail on: {', '.join(PROBLEMS)}. Repeatable.")] = None,
    on_bad_row: Annotated[str, typer.Option(help="stop at a broken row, or skip: set it aside in FILE.rejects.jsonl.")] = "stop",
    rejects: Annotated[Path | None, typer.Option(help="Folder for rows that are set aside; left out: beside the data.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Report supervised tokens, lengths, truncations, rows that train nothing and duplicates; show a sample with its mask."""
    from posttrain.chat import ChatContract, MaskKind, demonstrations_of, mask_report, report_lines, sample_segments, show_sample
    from posttrain.config import context_length, model_folder
    from posttrain.data import duplicates, read_records, rejects_file

    kind: MaskKind = _one_of(mask, "--mask", get_args(MaskKind))  # type: ignore[assignment]
    allowed = {_one_of(name, "--allow", PROBLEMS) for name in allow or []}
    contract = ChatContract.load(model)
    rule = _one_of(on_bad_row, "--on-bad-row", ("stop", "skip"))
    reader = read_records(data, on_bad_row=rule, rejects_path=rejects_file(data, rejects))  # type: ignore[arg-type]
    records = list(reader)
    rows = [row for record in records for row in demonstrations_of(record)]
    repeated = duplicates(records)
    report, sequences = mask_report(contract, rows, mask=kind, max_length=max_length or context_length(model_folder(model)))
    failing = sorted(set(report.problems()) - allowed)
    if as_json:
        found = {
            **report.to_json(),
            "skipped": reader.report.skipped,
            "rejects": reader.report.rejects_path,
            "duplicates": repeated.to_dict(),
            "failing": failing,
        }
        typer.echo(json.dumps({"data": str(data), "contract": contract.hash, **found}, ensure_ascii=False))
    else:
        typer.echo("\n".join(report_lines(report)))
        if reader.report.skipped:
            typer.echo(f"broken rows set aside: {reader.report.skipped}, in {reader.report.rejects_path}")
        typer.echo(f"duplicates: {len(repeated.exact)} exact, {len(repeated.near)} near")
        for one in (*repeated.exact, *repeated.near)[:5]:
            typer.echo(f"  record {one.dropped + 1} repeats {one.kept + 1} ({one.similarity:.0%} alike)")
        for sequence in sequences[:sample]:
            typer.echo(f"--- row {sequence.index}\n" + show_sample(sample_segments(contract, sequence), colour=sys.stdout.isatty()))
        typer.echo("not good to train on: " + ", ".join(failing) if failing else "good to train on")
    if failing:
        raise typer.Exit(1)


def _one_of(value: str, option: str, known: tuple[str, ...]) -> str:
    from posttrain.errors import ConfigError, suggest

    if value not in known:
        raise ConfigError(f"{option} '{value}' is unknown", hint=suggest(value, known))
    return value
