"""`posttrain gate`: judge a candidate's results; the exit code is the verdict."""

import json
from pathlib import Path
from typing import Annotated

import typer

from posttrain.cli.output import output_file

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog="Example: posttrain gate -c runs/eval-sft -b runs/eval-start -g suites/finops-gate.yaml --report gate.html  ·  "
    "exit codes: 0 ship, 1 block, 4 inconclusive, 3 too many samples unscored, 2 usage (other suite, changed, or frozen after training)"
)
def gate(
    candidate: Annotated[Path, typer.Option("--candidate", "-c", help="Results of the candidate, as `posttrain eval` wrote them.")],
    baseline: Annotated[Path, typer.Option("--baseline", "-b", help="Results of the version in service, on the same suite.")],
    gate_file: Annotated[Path, typer.Option("--gate", "-g", help="The gate file, frozen before training.")],
    report: Annotated[
        Path | None, typer.Option(help="Write the report here: one HTML file that opens offline.", callback=output_file)
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML here, for continuous integration.", callback=output_file)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object: the verdict with all checks.")] = False,
) -> None:
    """Judge a candidate against the version in service. No model is run."""
    from posttrain.evaluation import EvaluationResult
    from posttrain.release import judge, load_gate, verdict_lines, write_junit, write_report

    frozen = load_gate(gate_file)
    after, before = EvaluationResult.load(candidate), EvaluationResult.load(baseline)
    verdict = judge(after, before, frozen)
    if report is not None:
        write_report(report, verdict, after, before, frozen)
    if junit is not None:
        write_junit(verdict, junit)
    if as_json:
        typer.echo(json.dumps(verdict.dump(), ensure_ascii=False))
    else:
        typer.echo("\n".join(verdict_lines(verdict) + ([f"report: {report}"] if report else [])))
    raise typer.Exit(verdict.exit_code)
