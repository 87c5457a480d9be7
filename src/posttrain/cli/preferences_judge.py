"""`posttrain preferences judge`: labels by a judge under a written constitution, once it has been held against people."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from posttrain.cli.output import output_file
from posttrain.cli.preferences_collect import Adapter, AsJson, Batch, Endpoint, Model, open_generator
from posttrain.cli.preferences_files import check_outputs


def judge(
    file: Annotated[Path, typer.Argument(help="Comparisons to be labelled.")],
    constitution: Annotated[Path, typer.Option("--constitution", "-c", help="The constitution file.")],
    human: Annotated[Path, typer.Option("--human", help="Comparisons that people judged, to hold the judge against.")],
    model: Model,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="The comparisons with the judge's labels; OUT.calibration.json beside it.", callback=output_file),
    ],
    human_limit: Annotated[int, typer.Option(min=0, help="Hold it against the first so many of them; 0: all.")] = 0,
    other_rubric: Annotated[bool, typer.Option("--other-rubric", help="Accept people who judged under another rubric.")] = False,
    adapter: Adapter = "",
    endpoint: Endpoint = "",
    batch_size: Batch = 16,
    store: Annotated[Path, typer.Option("--store", help="The lineage store (an SQLite file).")] = Path("runs/lineage.db"),
    as_json: AsJson = False,
) -> None:
    """Ask a judge in both orders. Its agreement with people is computed first; below the constitution's floor no label is written.

    Example: posttrain preferences judge open.jsonl --constitution constitutions/assistant.yaml --human judged.jsonl --model judge
    --endpoint http://127.0.0.1:8000/v1 --out labelled.jsonl  ·  exit codes: 0 labelled, 1 below the floor, 2 usage, 3 infrastructure
    """
    from posttrain.data import load_comparisons
    from posttrain.generation.display import AnswerProgress
    from posttrain.judges import PairwiseJudge, calibration_lines, label_checked, load_constitution, record, record_labels, remembered
    from posttrain.lineage import LineageStore

    check_outputs([out, f"{out}.calibration.json", f"{out}.answers"], [file, human, constitution])
    rules, lineage = load_constitution(constitution), LineageStore(store)
    lineage.put("constitution", record(rules))  # a text changed under its old version stops here
    comparisons, people = load_comparisons(file), load_comparisons(human)
    generator = open_generator(model, adapter, endpoint, batch_size)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    with AnswerProgress() as progress:
        ask = remembered(generator, f"{out}.answers", progress.update)
        asked = PairwiseJudge(generator, rules, name=Path(adapter or model).name, ask=ask)
        held = people[: human_limit or None]
        done = label_checked(asked, comparisons, held, out=out, created=created, other_rubric=other_rubric)
    done["lineage"] = record_labels(lineage, asked, source=file, out=out, done=done)
    typer.echo(json.dumps(done) if as_json else "\n".join(calibration_lines(done)))
