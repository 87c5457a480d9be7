"""What the `preferences` commands write, and what they must never write over: labels that people gave."""

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from posttrain.errors import ConfigError, DataError

RubricFile = Annotated[
    Path | None, typer.Option("--rubric-file", help="The rubric labellers judge by; its version and question stand in tasks.")
]


def check_outputs(outputs: Sequence[str | Path], inputs: Sequence[str | Path], *, new_tasks: bool = False) -> None:
    """Raise ConfigError where an output is an input, or would replace labelling tasks that were judged.

    ``new_tasks``: the outputs hold no judgement yet, so none that is there may be replaced.
    """
    for output in map(Path, outputs):
        for source in map(Path, inputs):
            if output.resolve() == source.resolve() or (output.exists() and source.exists() and output.samefile(source)):
                raise ConfigError(f"{output} would be written over, and it is read as {source}", hint="give --out another name")
        judged = _judged_rows(output, any_row=new_tasks)
        if judged:
            raise ConfigError(f"{output} holds {judged} judged rows that would be lost", hint="give --out another name, or move it away")


def write_rows(rows: Iterable[Any], out: str | Path, *, card_of: Path | None = None, nothing: str) -> int:
    """Write a file with at least one row, and the card of the file it was made from beside it. Returns the count.

    Raises DataError, saying ``nothing``, instead of writing an empty file.
    """
    from posttrain.data import card_path, write_jsonl

    rows = list(rows)
    if not rows:
        raise DataError(f"{nothing}, so {out} is not written")
    count = write_jsonl(rows, out)
    if card_of and card_path(card_of).is_file():
        shutil.copyfile(card_path(card_of), card_path(out))
    return count


def _judged_rows(path: Path, *, any_row: bool) -> int:
    """Rows with a judgement: those of labelling tasks, or all. A line that is no JSON object is a person's work too, perhaps half typed."""
    if not path.is_file():
        return 0
    judged = 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line) if line.strip() else {}
        except ValueError:
            row = None
        if not isinstance(row, dict):
            judged += any_row
        elif row.get("judgements"):
            judged += any_row or (isinstance(row.get("metadata"), dict) and "task" in row["metadata"])
    return judged
