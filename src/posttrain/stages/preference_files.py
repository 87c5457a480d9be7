"""Any file of preferences as pairs: pairs as they are, judgements of several people by majority."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from posttrain.data import load_comparisons, read_records, rejects_file
from posttrain.data.shapes import matching, shapes
from posttrain.data.sources import open_source
from posttrain.errors import ConfigError, DataError
from posttrain.feedback import build_pairs
from posttrain.records import Comparison, Demonstration, Message, PreferencePair, Record, UnpairedLabel
from posttrain.rewards import RewardModel, fitting_pairs
from posttrain.rewards.evaluation import ALL

BadRow = Literal["stop", "skip"]
Tools = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class PairFile:
    """The pairs of a file, and what became of its other rows by reason (ties, empty answers, unreadable)."""

    pairs: list[PreferencePair]
    left_out: dict[str, int] = field(default_factory=dict)


def read_preferences(path: str | Path, *, on_bad_row: BadRow = "stop", rejects: str | None = None) -> PairFile:
    """Pairs in any shape `posttrain check` reads, LLMBar and HH-RLHF included; PandaLM, FineGrainedRLHF, Open-Instruct by majority vote.

    ``on_bad_row`` is for files of pairs: judgements are never set aside. ``rejects``: folder for rows that are, None for beside the file.
    Raises DataError as :func:`posttrain.data.read_records` and :func:`posttrain.data.load_comparisons` do.
    """
    if holds_comparisons(path):
        made = build_pairs(load_comparisons(path), method="majority")
        return PairFile(list(made.pairs), dict(made.left_out))
    reader = read_records(path, PreferencePair, on_bad_row=on_bad_row, rejects_path=rejects_file(path, rejects))
    pairs = [record for record in reader if isinstance(record, PreferencePair)]
    return PairFile(pairs, {"unreadable": reader.report.skipped} if reader.report.skipped else {})


def holds_comparisons(path: str | Path) -> bool:
    """Whether the first row of a file is a judged comparison (or FineGrainedRLHF's four answers) and no pair."""
    first = next((row for _, row in open_source(path).rows() if isinstance(row, dict)), {})
    row = {**first, "id": first.get("id", ""), "source": first.get("source", "")}
    every = [shapes.get(name) for name in shapes]
    if matching(row, [entry for entry in every if entry.kind is PreferencePair]):
        return False
    judged = matching(row, [entry for entry in every if entry.kind is Comparison])
    return bool(judged) or first.keys() >= {"question", "preference", "prediction 1"}


def named_files(given: Sequence[str]) -> dict[str, str]:
    """FILE and NAME=FILE arguments as a mapping; a bare file is called by its own name, and a path that holds '=' is a path.

    Raises ConfigError for two slices of one name and for the name ``all``, which is that of all slices together.
    """
    found: dict[str, str] = {}
    for item in given:
        name, equals, path = ("", "", item) if Path(item).exists() else item.partition("=")
        name, path = (name, path) if equals and path else (Path(item).name, item)
        if not name or name == ALL:
            raise ConfigError(f"{item}: a slice cannot be called '{name}'", hint="give it another name: NAME=FILE")
        if name in found:
            raise ConfigError(f"two slices are called '{name}': {found[name]} and {path}", hint="give each a name of its own: NAME=FILE")
        found[name] = path
    return found


def load_slices(
    models: Sequence[RewardModel], files: Mapping[str, str], *, drop_long: bool, on_bad_row: BadRow = "stop"
) -> tuple[dict[str, list[PreferencePair]], list[str]]:
    """The pairs of each named file that all ``models`` can read, and a line for every file that lost rows (ties, unreadable, too long).

    Raises DataError for a pair that is too long for a model unless ``drop_long``: it is left out whole then, never cut on one side.
    """
    slices, notes = {}, []
    longest = min(model.context_length for model in models)
    for name, path in files.items():
        found = read_preferences(path, on_bad_row=on_bad_row)
        kept = found.pairs
        for model in models:
            kept = fitting_pairs(model.contract, kept, model.context_length)
        if len(kept) < len(found.pairs) and not drop_long:
            raise DataError(
                f"{path}: {len(found.pairs) - len(kept)} of {len(found.pairs)} pairs exceed the model's {longest} tokens",
                hint="--drop-long leaves them out whole; no side is ever cut",
            )
        lost = {**found.left_out, f"longer than {longest} tokens": len(found.pairs) - len(kept)}
        if any(lost.values()):
            notes.append(f"{name}: left out {said_left_out(lost)}")
        slices[name] = kept
    return slices, notes


def said_left_out(lost: Mapping[str, int]) -> str:
    """``3 tie, 1 unreadable``."""
    return ", ".join(f"{count} {reason}" for reason, count in lost.items() if count)


def score_file(model: RewardModel, path: str | Path, *, on_bad_row: BadRow = "stop") -> tuple[list[dict[str, Any]], list[str]]:
    """A row of JSON types for every record (both rewards and P(chosen is better) of a pair, the reward of a single answer), and notes.

    Raises DataError with the numbers of the rows that are longer than the model's context.
    """
    records, skipped = _numbered(path, on_bad_row)
    sequences = [
        (number, model.encode(prompt, completion, tools=tools, index=number))
        for number, record in records
        for prompt, tools, completions in [_sides(record)]
        for completion in completions.values()
    ]
    too_long = {number: len(sequence) for number, sequence in sequences if len(sequence) > model.context_length}
    if too_long:
        shown = ", ".join(f"{number} ({length} tokens)" for number, length in list(too_long.items())[:10])
        raise DataError(
            f"{path}: {len(too_long)} of {len(records)} rows are longer than the model's {model.context_length} tokens: rows {shown}",
            hint="leave them out: a cut answer would be judged for what it does not say",
        )
    rewards = iter(model.score_sequences([sequence for _, sequence in sequences]))
    rows = []
    for _, record in records:
        scores = {name: next(rewards) for name in _sides(record)[2]}
        row: dict[str, Any] = {"id": record.id, **scores}
        if len(scores) == 2:
            row["probability"] = model.probability(*scores.values())
        rows.append(row)
    return rows, [f"{path}: left out {skipped} unreadable"] if skipped else []


def _numbered(path: str | Path, on_bad_row: BadRow) -> tuple[list[tuple[int, Record]], int]:
    """The records of a file with their row numbers from 1, and how many rows were set aside."""
    if holds_comparisons(path):
        return list(enumerate(load_comparisons(path), 1)), 0
    reader = read_records(path, on_bad_row=on_bad_row)
    records = list(enumerate(reader, 1))
    return records, reader.report.skipped


def _sides(record: Record) -> tuple[Sequence[Message], Tools, dict[str, Sequence[Message]]]:
    """A record's prompt, its tools and its answers by name."""
    match record:
        case PreferencePair():
            return record.prompt, record.tools, {"chosen": record.chosen, "rejected": record.rejected}
        case Comparison():
            return record.prompt, record.tools, {"a": record.a, "b": record.b}
        case UnpairedLabel():
            return record.prompt, record.tools, {"reward": record.completion}
        case Demonstration():
            return record.messages[:-1], record.tools, {"reward": record.messages[-1:]}
        case _:
            raise DataError(f"{record.id}: a {type(record).__name__} holds no answer to score", hint="give pairs or prompts with answers")
