"""Rows of Parquet files, Arrow files and folders written by Hugging Face `datasets`, read batch by batch through pyarrow."""

import gzip
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from posttrain.data.conversations import ARGUMENT_KEYS
from posttrain.data.sources import Rows, broken
from posttrain.errors import DataError, suggest

BATCH_ROWS = 256
FREE_KEYS = (*ARGUMENT_KEYS, "tools", "functions")  # objects whose keys differ from row to row
READ_BYTES = 1 << 20  # buffered reads keep a large column chunk out of memory


def parquet_rows(path: Path) -> Rows:
    """Rows of a Parquet file (or gzipped Parquet, unpacked to a temporary file first)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _seekable(path) as plain:
        try:
            with pq.ParquetFile(plain, pre_buffer=False, buffer_size=READ_BYTES) as table:
                position = 0
                for batch in table.iter_batches(batch_size=BATCH_ROWS):
                    for row in _plain_rows(batch):
                        position += 1
                        yield position, row
        except (pa.ArrowInvalid, OSError) as error:
            broken(path, f"damaged Parquet file: {_short(error)}", "the copy or download was cut: get the file again")


@contextmanager
def _seekable(path: Path) -> Iterator[Path]:
    with open(path, "rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    if not packed:
        yield path
        return
    with tempfile.NamedTemporaryFile(suffix=".parquet") as plain:
        with gzip.open(path, "rb") as stream:
            shutil.copyfileobj(stream, plain, READ_BYTES)
        plain.flush()
        yield Path(plain.name)


def arrow_rows(path: Path, first: int = 1) -> Rows:
    """Rows of one Arrow file, stream or random-access format, counted from ``first``."""
    import pyarrow as pa

    position = first
    try:
        with pa.OSFile(str(path), "rb") as file:
            for batch in _batches(file):
                for start in range(0, batch.num_rows, BATCH_ROWS):
                    for row in _plain_rows(batch.slice(start, BATCH_ROWS)):
                        yield position, row
                        position += 1
    except (pa.ArrowInvalid, OSError) as error:
        broken(path, f"damaged Arrow file: {_short(error)}", "the copy or download was cut: get the file again")


def _plain_rows(batch: Any) -> list[dict[str, Any]]:
    """The rows of a batch without the nulls its struct types put into calls and tool signatures.

    A struct column holds every key that any of its rows has, so a call f(x) beside a call g(y) comes out as {"x": 1, "y": null}. A null
    that was meant cannot be told from one that the type put there; who needs it keeps arguments and tools as JSON text.
    """
    import pyarrow as pa

    rows: list[dict[str, Any]] = batch.to_pylist()
    nested = [field.name for field in batch.schema if pa.types.is_nested(field.type)]
    for row in rows:
        for name in nested:
            row[name] = _without_nulls(row[name], inside=name in FREE_KEYS)
    return rows


def _without_nulls(value: Any, *, inside: bool) -> Any:
    """``value`` with the null entries of objects under :data:`FREE_KEYS` left out (``inside``: it stands under one)."""
    if isinstance(value, list):
        return [_without_nulls(item, inside=inside) for item in value]
    if isinstance(value, dict):
        return {
            key: _without_nulls(item, inside=inside or key in FREE_KEYS) for key, item in value.items() if not (inside and item is None)
        }
    return value


def _batches(file: Any) -> Iterator[Any]:
    import pyarrow as pa

    if file.read(6) == b"ARROW1":
        reader = pa.ipc.open_file(file)
        yield from (reader.get_batch(index) for index in range(reader.num_record_batches))
    else:
        file.seek(0)
        yield from pa.ipc.open_stream(file)


def hub_shards(folder: Path, split: str | None) -> list[Path]:
    """The Parquet files of one split of a folder as the hub has it (``data/train-00000-of-00002.parquet``, ``train/0.parquet``), in order;
    none where it is no such folder. Raises DataError where the split is not said, not there, or lacks a shard."""
    splits: dict[str, list[Path]] = {}
    for file in sorted(folder.rglob("*.parquet")):
        inside = file.relative_to(folder)
        named = re.fullmatch(r"(.+?)(?:-\d{5}-of-\d{5}(?:-\w+)?)?", inside.stem)
        is_numbered = inside.stem.isdigit() and len(inside.parts) > 1
        name = inside.parts[-2] if is_numbered else named[1] if named else inside.stem
        splits.setdefault(name, []).append(file)
    if not splits or (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        return []
    if split is None and len(splits) > 1:
        raise DataError(f"{folder}: has several splits: {', '.join(splits)}", hint="name one of its files, or keep one split in the folder")
    if split is not None and split not in splits:
        raise DataError(f"{folder}: has no split '{split}'", hint=suggest(split, splits))
    shards = splits[split] if split is not None else next(iter(splits.values()))
    for file in shards:
        if (counted := re.search(r"-\d{5}-of-(\d{5})", file.stem)) and int(counted[1]) != len(shards):
            broken(folder, f"holds {len(shards)} of the {int(counted[1])} shards that {file.name} speaks of", "copy the whole folder again")
    return shards


def shard_rows(shards: Sequence[Path]) -> Rows:
    """Rows of several Parquet files as of one, counted through."""
    before = 0
    for shard in shards:
        position = 0
        for position, row in parquet_rows(shard):
            yield before + position, row
        before += position


def datasets_folder(folder: Path, split: str | None) -> Path:
    """The folder of one saved data set: ``folder`` itself, or a split of a saved DatasetDict. Raises DataError."""
    if (folder / "state.json").is_file():
        if split is not None:
            raise DataError(f"{folder}: holds one data set without splits; '{split}' was asked for", hint="leave the split out")
        return folder
    listing = folder / "dataset_dict.json"
    if not listing.is_file():
        inside = ", ".join(sorted(entry.name for entry in folder.iterdir())[:6]) or "nothing"
        raise DataError(f"{folder}: a folder that `datasets` did not write (it holds {inside})", hint="name one file in it")
    splits = json.loads(listing.read_text(encoding="utf-8"))["splits"]
    if split is None and len(splits) == 1:
        return folder / str(splits[0])
    if split is None:
        raise DataError(
            f"{folder}: has several splits: {', '.join(splits)}", hint=f"name the one to read, for example {folder / splits[0]}"
        )
    if split not in splits:
        raise DataError(f"{folder}: has no split '{split}'", hint=suggest(split, splits))
    return folder / split


def arrow_folder_rows(folder: Path) -> Rows:
    """Rows of a folder written by ``Dataset.save_to_disk``, its Arrow files in the order state.json gives."""
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        names = [entry["filename"] for entry in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        broken(folder, f"state.json cannot be read: {error}", "save the data set again with save_to_disk")
    if state.get("_indices_data_files"):
        broken(folder, "the data set was saved with an index over its rows", "call flatten_indices() and save it again")
    position = 0
    for name in names:
        if not (folder / name).is_file():
            broken(folder, f"the file {name} is missing", "copy the whole folder again")
        for position, row in arrow_rows(folder / name, position + 1):  # noqa: B020 (the count goes on over the files)
            yield position, row


def _short(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]
