"""``read_records``: any accepted file to records, streamed; a bad row stops the reading or is set aside, never lost silently."""

import difflib
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, TextIO

from posttrain.config.files import atomic_text
from posttrain.data.shapes import Shape, matching, shapes
from posttrain.data.sources import BadRow, Source, open_source
from posttrain.errors import ConfigError, DataError, InfrastructureError, PosttrainError, suggest
from posttrain.records import (
    Comparison,
    Demonstration,
    FeedbackEvent,
    FieldError,
    PreferencePair,
    PromptOnly,
    Record,
    StepLabels,
    UnpairedLabel,
    VerifiableTask,
    check_record,
)

KINDS: dict[str, type[Record]] = {
    re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower(): kind
    for kind in (Demonstration, PreferencePair, UnpairedLabel, StepLabels, VerifiableTask, FeedbackEvent, Comparison, PromptOnly)
}


@dataclass(frozen=True, slots=True)
class ReadReport:
    """What a reader has done so far. ``rejects_path`` is None when no row was set aside."""

    path: str
    format: str
    shape: str | None
    rows: int
    skipped: int
    rejects_path: str | None


def read_records(
    path: str | Path,
    kind: type[Record] | str | None = None,
    *,
    on_bad_row: Literal["stop", "skip"] = "stop",
    rejects_path: str | Path | None = None,
    split: str | None = None,
) -> "RecordReader":
    """Stream the records of a file or `datasets` folder.

    ``kind``: a record class, its name ("demonstration", "preference_pair", ...) or a shape's name ("alpaca", ...); None finds
    the shape by the columns of the first row, and every later row must have that shape. ``id`` and ``source`` are
    filled with file and position where the row has none; columns no shape reads go to ``metadata``.

    ``on_bad_row``: "stop" raises DataError with file, line, field, value and fix; "skip" writes the row and the reason to
    ``rejects_path`` (default ``<path>.rejects.jsonl``) and goes on; when no row is good it raises all the same. Damage to
    the file itself (cut gzip, wrong encoding, Git LFS pointer, web page) always raises.

    Memory is that of one row (JSONL, JSON, CSV) or one batch (Parquet, Arrow). The file is recognised at once, so a
    missing or foreign file raises here.
    """
    if on_bad_row not in ("stop", "skip"):
        raise ConfigError(f"on_bad_row is '{on_bad_row}'", hint="use 'stop' or 'skip'")
    source = open_source(path, split=split)
    return RecordReader(source, _allowed(kind), skip=on_bad_row == "skip", rejects_path=Path(rejects_path or rejects_file(path)))


def rejects_file(path: str | Path, folder: str | Path | None = None) -> Path:
    """Where rows of ``path`` that are set aside go: ``<path>.rejects.jsonl``, in ``folder`` or beside the file."""
    file = Path(path)
    return (file.parent if folder is None else Path(folder)) / f"{file.name}.rejects.jsonl"


def read_for_prompts(
    path: str | Path, *, on_bad_row: Literal["stop", "skip"] = "stop", rejects_path: str | Path | None = None
) -> "RecordReader":
    """:func:`read_records` for a method that takes prompts alone: a file whose first row has a ``prompt`` or ``messages`` and neither
    ``chosen`` nor ``completion`` gives PromptOnly, any other what it holds."""
    row = next((row for _, row in open_source(path).rows() if isinstance(row, dict)), {})
    kinds = {"messages": "prompt_messages", "prompt": "prompt"} if not {"chosen", "completion"} & row.keys() else {}
    kind = next((kind for column, kind in kinds.items() if row.get(column)), None)
    return read_records(path, kind, on_bad_row=on_bad_row, rejects_path=rejects_path)


def _allowed(kind: type[Record] | str | None) -> list[Shape]:
    """The shapes that may be read for ``kind``; prompts alone are never guessed."""
    every = [shapes.get(name) for name in shapes]
    if kind is None:
        return [entry for entry in every if entry.kind is not PromptOnly]
    if isinstance(kind, str):
        if kind in shapes:
            return [shapes.get(kind)]
        if kind not in KINDS:
            raise ConfigError(f"unknown kind of record '{kind}'", hint=suggest(kind, [*KINDS, *shapes]))
        kind = KINDS[kind]
    return [entry for entry in every if entry.kind is kind]


class RecordReader(Iterator[Record]):
    """An iterator over records that knows how far it is: ``report`` may be read at any time."""

    def __init__(self, source: Source, allowed: list[Shape], *, skip: bool, rejects_path: Path) -> None:
        self._source = source
        self._allowed = allowed
        self._skip = skip
        self._rejects_path = rejects_path
        self._shape: Shape | None = None
        self._shape_row = 0
        self._known_columns: set[tuple[str, ...]] = set()
        self._rows = 0
        self._skipped = 0
        self._last: tuple[dict[str, Any] | BadRow, int] = {}, 0
        self._rejects: TextIO | None = None
        self._open = ExitStack()
        self._records = self._read()

    @property
    def report(self) -> ReadReport:
        """Counts so far."""
        shape = self._shape.name if self._shape else None
        aside = str(self._rejects_path) if self._rejects else None
        return ReadReport(str(self._source.path), self._source.format, shape, self._rows, self._skipped, aside)

    def __next__(self) -> Record:
        return next(self._records)

    @property
    def position(self) -> int:
        """Where the row given last stands in its file: its line, or its row where the format has no lines, from 1."""
        return self._last[1]

    @property
    def where(self) -> str:
        """:attr:`position` with its file: ``file:line``, or ``file, row n``."""
        return f"{self._source.path}:{self.position}" if self._source.unit == "line" else f"{self._source.path}, row {self.position}"

    def set_aside(self, error: PosttrainError) -> None:
        """Put the row given last among the rejects, for what its reader found wrong with it; the counts stay as they are."""
        row, position = self._last
        try:
            self._rejects = self._rejects or self._open.enter_context(atomic_text(self._rejects_path))
        except (InfrastructureError, OSError) as failure:
            reason = failure.message if isinstance(failure, InfrastructureError) else str(failure)
            hint = "give a folder that can be written for the rows that are set aside: --rejects FOLDER, or `rejects:` in a recipe"
            raise InfrastructureError(f"{error.message}; it cannot be set aside: {reason}", hint=hint) from None
        self._rejects.write(json.dumps(_reject(row, position, error), ensure_ascii=True, default=str) + "\n")

    def _read(self) -> Iterator[Record]:
        first_error: DataError | None = None
        with self._open:
            for position, row in self._source.rows():
                self._last = row, position
                try:
                    record = self._record(row)
                except DataError as error:
                    if not self._skip:
                        raise
                    first_error = first_error or error
                    self._skipped += 1
                    self.set_aside(error)
                    continue
                self._rows += 1
                yield record
        if not self._rows:
            self._refuse_nothing(first_error)

    def _refuse_nothing(self, first: DataError | None) -> NoReturn:
        if first is None:
            raise DataError(f"{self._source.path}: holds no rows", hint="the export that made it selected nothing: make it again")
        raise DataError(f"no row is good ({self._skipped} set aside in {self._rejects_path}); the first: {first.message}", hint=first.hint)

    def _record(self, row: dict[str, Any] | BadRow) -> Record:
        where, position = self.where, self.position
        if isinstance(row, BadRow):
            raise DataError(f"{where}: {row.problem}", hint=row.fix)
        try:
            shape = self._shape_of(row, position)
            name = self._source.path.name
            filled = {**row, "id": f"{name}:{position}" if row.get("id") is None else row["id"], "source": row.get("source") or name}
            record = shape.parse(filled)
            check_record(record)
        except FieldError as error:
            raise DataError(f"{where}: {error.message}", hint=error.hint) from None
        except DataError as error:
            raise DataError(f"{where}: {error.message}", hint=error.hint) from None
        return record

    def _shape_of(self, row: dict[str, Any], position: int) -> Shape:
        """The file's shape, found at its first readable row; a row of another shape raises."""
        filled = tuple(column for column, value in row.items() if value is not None)
        if filled in self._known_columns and self._shape:
            return self._shape
        if self._shape:
            missing = sorted(self._shape.needs - self._shape.nullable - set(filled))
            if missing:
                began = f"the file's rows are '{self._shape.name}' since {self._source.unit} {self._shape_row}"
                fix = "fill the column, or remove the row; keep rows of different shapes in files of their own"
                raise FieldError(missing[0], f"is missing or null, and {began}", list(filled), fix=fix)
        found = matching(row, self._allowed)
        if self._shape and found and found != [self._shape]:
            began = f"the file began as '{self._shape.name}' at {self._source.unit} {self._shape_row}"
            fix = "keep rows of different shapes in files of their own, or name the shape to read"
            raise DataError(f"this row is '{found[0].name}' but {began} (columns {', '.join(filled)})", hint=fix)
        if len(found) != 1:
            self._refuse_shape(row, found)
        self._shape, self._shape_row = found[0], self._shape_row or position
        self._known_columns.add(filled)
        return found[0]

    def _refuse_shape(self, row: dict[str, Any], found: list[Shape]) -> NoReturn:
        columns = ", ".join(map(str, row)) or "none"
        if found:
            names = ", ".join(entry.name for entry in found)
            raise DataError(f"the columns ({columns}) fit several shapes: {names}", hint="name the one to read with kind=")
        other = matching(row, _allowed(None))
        if other:
            wanted = ", ".join(sorted({entry.kind.__name__ for entry in self._allowed}))
            raise DataError(
                f"the row is '{other[0].name}' ({other[0].kind.__name__}), and {wanted} was asked for", hint="give a file of that kind"
            )
        near = _nearest(row, self._allowed)
        names = ", ".join(entry.name for entry in self._allowed)
        hint = f"{'; or '.join(near)}; fill or rename the column" if near else f"the shapes are: {names}; docs/data.md has their columns"
        raise DataError(f"the columns ({columns}) are no known shape", hint=hint)


def _nearest(row: dict[str, Any], allowed: list[Shape]) -> list[str]:
    """The shapes that need the fewest changes to the row's columns, at most three, each with what it lacks: misspelt, null or not there."""
    filled = {str(column) for column, value in row.items() if value is not None}
    found: list[tuple[float, int, str]] = []
    for entry in allowed:
        lacking = sorted(entry.needs - entry.nullable - filled)
        near = {column: difflib.get_close_matches(column, sorted(filled - entry.needs), n=1, cutoff=0.75) for column in lacking}
        misspelt = {column: names[0] for column, names in near.items() if names}
        num_known = len(entry.needs & filled) + len(misspelt)
        if num_known:
            notes = {c: f" (is '{misspelt[c]}' it?)" if c in misspelt else " (null here)" if c in row else "" for c in lacking}
            said = " and ".join(f"'{column}'{note}" for column, note in notes.items())
            cost = len(lacking) - sum(map(bool, notes.values())) / 2
            found.append((cost, -num_known, f"'{entry.name}' lacks {'only ' if len(lacking) == 1 else ''}{said}"))
    best = sorted(found)[:3]
    return [said for *rank, said in best if rank == [*best[0][:2]]]


def _reject(row: dict[str, Any] | BadRow, position: int, error: PosttrainError) -> dict[str, Any]:
    return {"position": position, "reason": error.message, "fix": error.hint, "row": row.raw if isinstance(row, BadRow) else row}
