"""`posttrain preferences pairs`: from judgements to training pairs."""

import json
from pathlib import Path
from typing import Annotated

import typer

from posttrain.cli.output import output_file
from posttrain.cli.preferences_files import check_outputs, write_rows


def pairs(
    file: Annotated[Path, typer.Argument(help="Judged comparisons.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Preference pairs, JSONL; the card of FILE goes with them.", callback=output_file)
    ],
    method: Annotated[str, typer.Option(help="dawid_skene, majority or mean.")] = "dawid_skene",
    min_confidence: Annotated[float, typer.Option(help="Leave out pairs less certain than this.", min=0.5, max=1.0)] = 0.5,
    ties: Annotated[str, typer.Option(help="drop, or half: keep them with probability .5.")] = "drop",
    rubric: Annotated[str, typer.Option(help="Only judgements under this rubric version.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Clean and weight: one pair a comparison, its probability out of all judgements. What is left out is counted, by reason.

    Example: posttrain preferences pairs pandalm/testset-v1.json --out data/pairs.jsonl --min-confidence 0.7
    """
    from posttrain.data import load_comparisons
    from posttrain.feedback import build_pairs, of_rubric

    check_outputs([out], [file])
    comparisons = load_comparisons(file)
    comparisons = of_rubric(comparisons, rubric) if rubric else comparisons
    made = build_pairs(comparisons, method=method, min_confidence=min_confidence, ties=ties)  # type: ignore[arg-type]
    left_out = ", ".join(f"{count} {reason}" for reason, count in made.left_out.items()) or "none"
    write_rows(made.pairs, out, card_of=file, nothing=f"{file} gives no pair (left out: {left_out})")
    if as_json:
        typer.echo(json.dumps({"out": str(out), **made.to_dict()}))
        return
    counts = f"{len(made.pairs)} pairs of {made.comparisons} comparisons, {made.soft} with a soft label"
    typer.echo(f"{out}: {counts} ({method}, rubric {made.rubric})")
    typer.echo(f"left out: {left_out}")
