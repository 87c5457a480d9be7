"""What `posttrain reward` does with a trained model: eval, probe."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from posttrain.cli.output import output_file

Model = Annotated[str, typer.Argument(help="A reward model's folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Data = Annotated[list[str], typer.Option("--data", "-d", help="FILE or NAME=FILE of pairs, one a slice; published sets as they are.")]
DropLong = Annotated[bool, typer.Option("--drop-long", help="Leave out pairs longer than the model's context; without it they stop.")]
BadRow = Annotated[Literal["stop", "skip"], typer.Option(help="stop at a broken row, or skip: set it aside in FILE.rejects.jsonl.")]


def eval_command(
    model: Model,
    data: Data,
    html: Annotated[
        Path | None, typer.Option(help="Write the report here: one HTML file that opens offline.", callback=output_file)
    ] = None,
    also: Annotated[list[str] | None, typer.Option(help="Another calibrated reward model, to see how far they disagree.")] = None,
    drop_long: DropLong = False,
    on_bad_row: BadRow = "stop",
    as_json: Json = False,
) -> None:
    """Accuracy by slice with intervals, calibration before and after the temperature, probes."""
    from posttrain.rewards import RewardEnsemble, RewardModel, evaluate_pairs, report_lines, write_reward_report
    from posttrain.stages.preference_files import load_slices, named_files

    files = named_files(data)
    judge, *others = [RewardModel.load(path) for path in (model, *(also or []))]
    slices, notes = load_slices([judge, *others], files, drop_long=drop_long, on_bad_row=on_bad_row)
    result = evaluate_pairs(judge, slices)
    found, lines = {**result.dump(), "notes": notes}, [*notes, *report_lines(result)]
    if others:
        apart = RewardEnsemble([judge, *others]).disagreement([pair for pairs in slices.values() for pair in pairs])
        found["disagreement"] = asdict(apart)
        lines.append(f"{1 + len(others)} models: {apart.split.value:.1%} of pairs split them, spread of P {apart.spread:.3f}")
    if html is not None:
        write_reward_report(html, result)
        lines.append(f"report: {html}")
    typer.echo(json.dumps(found) if as_json else "\n".join(lines))


def probe(model: Model, data: Data, drop_long: DropLong = False, on_bad_row: BadRow = "stop", as_json: Json = False) -> None:
    """What length, flattery, markdown and packing do to the reward; exit code 1 when one of them games it, 4 when too few answers tell."""
    from posttrain.rewards import RewardModel, run_probes
    from posttrain.stages.preference_files import load_slices, named_files

    files = named_files(data)
    judge = RewardModel.load(model)
    slices, notes = load_slices([judge], files, drop_long=drop_long, on_bad_row=on_bad_row)
    results = run_probes(judge, [pair for pairs in slices.values() for pair in pairs])
    lines = [f"{one.name:9} {one.shift.value:+.3f} [{one.shift.low:+.3f}, {one.shift.high:+.3f}]  {one.verdict}" for one in results]
    lines = [*notes, "probe     shift of the reward in standard deviations", *lines]
    typer.echo(json.dumps({"probes": [one.dump() for one in results], "notes": notes}) if as_json else "\n".join(lines))
    verdicts = {one.verdict for one in results}
    if verdicts != {"clean"}:
        raise typer.Exit(1 if "gamed" in verdicts else 4)
