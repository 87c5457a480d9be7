"""`posttrain preferences`: are the labels good, pairs out of them, adjudication, collection, a judge's labels."""

import json
from pathlib import Path
from typing import Annotated

import typer

from posttrain.cli.output import output_file
from posttrain.cli.preferences_collect import collect
from posttrain.cli.preferences_counterexamples import counterexamples
from posttrain.cli.preferences_decide import adjudicate
from posttrain.cli.preferences_files import check_outputs
from posttrain.cli.preferences_judge import judge
from posttrain.cli.preferences_pairs import pairs

app = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    help="Preference labels: how good they are, pairs out of them, adjudication, collection, a judge's labels.",
    epilog="Examples: posttrain preferences report judged.jsonl --html l.html  ·  posttrain preferences pairs judged.jsonl -o pairs.jsonl",
)


@app.command(
    epilog="Example: posttrain preferences report pandalm/testset-v1.json --html labels.html  ·  reads PandaLM's, FineGrainedRLHF's and "
    "Open-Instruct's files as they are, and rows {prompt, completion_a, completion_b, judgements: [{annotator, choice, rubric}]}"
)
def report(
    file: Annotated[Path, typer.Argument(help="Judged comparisons.")],
    rubric: Annotated[str, typer.Option(help="Only judgements under this rubric version.")] = "",
    html: Annotated[Path | None, typer.Option(help="Write one HTML page here; it opens offline.", callback=output_file)] = None,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Who disagrees with whom, who stands out, what place and length decide, and what to adjudicate first."""
    from posttrain.data import load_comparisons
    from posttrain.feedback import adjudication_queue, label_quality, label_tables, of_rubric, report_lines, write_page
    from posttrain.feedback.tables import warnings

    check_outputs([html] if html else [], [file])
    comparisons = load_comparisons(file)
    comparisons = of_rubric(comparisons, rubric) if rubric else comparisons
    found = label_quality(comparisons, seed=seed)
    queue = adjudication_queue(comparisons, method="dawid_skene" if found.judged_twice else "mean")
    tables = label_tables(found, queue)
    if html:
        write_page(html, found, tables, title=f"Labels: {file.name}")
    if as_json:
        to_adjudicate = [doubt.to_dict() for doubt in queue]
        typer.echo(json.dumps({"file": str(file), **found.to_dict(), "queue": to_adjudicate, "warnings": warnings(found)}, allow_nan=False))
        return
    typer.echo("\n".join([*report_lines(tables), "", *(f"note: {one}" for one in warnings(found))]))
    if html:
        typer.echo(f"page: {html}")


app.command()(pairs)
app.command()(adjudicate)
app.command()(collect)
app.command()(judge)
app.command()(counterexamples)
