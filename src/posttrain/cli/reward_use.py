"""What `posttrain reward` does with a trained model: eval, probe, score."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str, typer.Argument(help="A reward model's folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Data = Annotated[list[str], typer.Option("--data", "-d", help="FILE or NAME=FILE of pairs, one a slice; published sets as they are.")]
DropLong = Annotated[bool, typer.Option("--drop-long", help="Leave out pairs longer than the model's context; without it they stop.")]


def named_files(given: Sequence[str]) -> dict[str, str]:
    """NAME=FILE arguments as a mapping; a bare file is called by its own name."""
    return {(name if path else Path(item).name): path or item for item in given for name, _, path in [item.partition("=")]}


def eval_command(
    model: Model,
    data: Data,
    html: Annotated[Path | None, typer.Option(help="Write the report here: one HTML file that opens offline.")] = None,
    also: Annotated[list[str] | None, typer.Option(help="Another calibrated reward model, to see how far they disagree.")] = None,
    drop_long: DropLong = False,
    as_json: Json = False,
) -> None:
    """Accuracy by slice with intervals, calibration before and after the temperature, probes."""
    from posttrain.rewards import RewardEnsemble, RewardModel, evaluate_pairs, report_lines, write_reward_report
    from posttrain.stages.preference_files import load_slices

    judge = RewardModel.load(model)
    slices, notes = load_slices(judge, named_files(data), drop_long=drop_long)
    result = evaluate_pairs(judge, slices)
    found, lines = result.dump(), [*notes, *report_lines(result)]
    if also:
        ensemble = RewardEnsemble([judge, *(RewardModel.load(path) for path in also)])
        apart = ensemble.disagreement([pair for pairs in slices.values() for pair in pairs])
        found["disagreement"] = asdict(apart)
        lines.append(f"{len(ensemble.members)} models: {apart.split.value:.1%} of pairs split them, spread of P {apart.spread:.3f}")
    if html is not None:
        write_reward_report(html, result)
        lines.append(f"report: {html}")
    typer.echo(json.dumps(found) if as_json else "\n".join(lines))


def probe(model: Model, data: Data, drop_long: DropLong = False, as_json: Json = False) -> None:
    """What length, flattery, markdown and packing do to the reward; exit code 1 when one of them games it."""
    from posttrain.rewards import RewardModel, run_probes
    from posttrain.stages.preference_files import load_slices

    judge = RewardModel.load(model)
    slices, notes = load_slices(judge, named_files(data), drop_long=drop_long)
    results = run_probes(judge, [pair for pairs in slices.values() for pair in pairs])
    lines = [f"{one.name:9} {one.shift.value:+.3f} [{one.shift.low:+.3f}, {one.shift.high:+.3f}]  {one.verdict}" for one in results]
    lines = [*notes, "probe     shift of the reward in standard deviations", *lines]
    typer.echo(json.dumps({"probes": [one.dump() for one in results]}) if as_json else "\n".join(lines))
    if any(one.verdict == "gamed" for one in results):
        raise typer.Exit(1)


def score(
    model: Model,
    data: Annotated[Path, typer.Option("--data", "-d", help="Pairs, judged comparisons, or prompts with answers.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="JSONL file; left out: standard output.")] = None,
    as_json: Json = False,
) -> None:
    """The reward of every answer in a file, one JSON row a record; pairs also get P(chosen is better)."""
    from posttrain.config.files import write_text
    from posttrain.rewards import RewardModel
    from posttrain.stages.preference_files import score_file

    rows = score_file(RewardModel.load(model), data)
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    if out is not None:
        write_text(out, text + "\n")
    typer.echo(json.dumps({"rows": rows}, ensure_ascii=False) if as_json else text if out is None else f"{len(rows)} rows: {out}")
