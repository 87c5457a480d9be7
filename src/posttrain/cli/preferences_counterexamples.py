"""`posttrain preferences counterexamples`: pairs whose worse side only looks good."""

import json
from pathlib import Path
from typing import Annotated

import typer

from posttrain.cli.output import output_file
from posttrain.cli.preferences_files import check_outputs, write_rows


def counterexamples(
    file: Annotated[Path, typer.Argument(help="Demonstrations whose answers are right.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Preference pairs, JSONL; the card of FILE goes with them.", callback=output_file)
    ],
    kind: Annotated[list[str] | None, typer.Option(help="nice_but_false, legal_but_wrong, safe_but_refused. May be repeated.")] = None,
    seed: Annotated[int, typer.Option(help="Of what is changed.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Make counterexamples: flattering and false, valid JSON with a wrong value, a refusal of what is safe. Right answers are chosen.

    Example: posttrain preferences counterexamples data/finops.jsonl --out data/counter.jsonl --kind legal_but_wrong --kind nice_but_false
    """
    from posttrain.data import read_records
    from posttrain.feedback.counterexamples import counterexamples as make
    from posttrain.records import Demonstration

    check_outputs([out], [file])
    rows = [row for row in read_records(file, Demonstration) if isinstance(row, Demonstration)]
    found = make(rows, kind or ["nice_but_false", "legal_but_wrong"], seed=seed)
    write_rows(found.pairs, out, card_of=file, nothing=f"no counterexample can be made of {len(rows)} rows")
    summary = {"out": str(out), "rows": len(rows), "pairs": len(found.pairs), "made": found.made, "not_possible": found.not_possible}
    said = ", ".join(f"{count} {name}" for name, count in found.made.items()) or "none could be made"
    typer.echo(json.dumps(summary) if as_json else f"{out}: {len(found.pairs)} pairs of {len(rows)} rows ({said})")
