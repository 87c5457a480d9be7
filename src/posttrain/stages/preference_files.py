"""Any file of preferences as pairs: pairs as they are, judgements of several people by majority."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from posttrain.data import load_comparisons, read_records
from posttrain.data.shapes import matching, shapes
from posttrain.data.sources import open_source
from posttrain.errors import DataError
from posttrain.feedback import build_pairs
from posttrain.records import Comparison, Demonstration, Message, PreferencePair, Record, UnpairedLabel
from posttrain.rewards import RewardModel, fitting_pairs


@dataclass(frozen=True, slots=True)
class PairFile:
    """The pairs of a file, and what became of its other rows by reason (ties, empty answers, unreadable)."""

    pairs: list[PreferencePair]
    left_out: dict[str, int] = field(default_factory=dict)


def read_preferences(path: str | Path, *, on_bad_row: Literal["stop", "skip"] = "stop") -> PairFile:
    """Pairs in any shape `posttrain check` reads, LLMBar and HH-RLHF included; PandaLM, FineGrainedRLHF, Open-Instruct by majority vote.

    Raises DataError as :func:`posttrain.data.read_records` and :func:`posttrain.data.load_comparisons` do.
    """
    if holds_comparisons(path):
        made = build_pairs(load_comparisons(path), method="majority")
        return PairFile(list(made.pairs), dict(made.left_out))
    reader = read_records(path, PreferencePair, on_bad_row=on_bad_row)
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


def load_slices(model: RewardModel, files: Mapping[str, str], *, drop_long: bool) -> tuple[dict[str, list[PreferencePair]], list[str]]:
    """The pairs of each named file for ``model``, and a line for every file that lost rows (ties, longer than the model's context).

    Raises DataError for a pair that is too long unless ``drop_long``: it is left out whole then, never cut on one side.
    """
    slices, notes = {}, []
    for name, path in files.items():
        found = read_preferences(path)
        kept = fitting_pairs(model, found.pairs)
        lost = {**found.left_out, f"longer than {model.context_length} tokens": len(found.pairs) - len(kept)}
        if len(kept) < len(found.pairs) and not drop_long:
            raise DataError(
                f"{path}: {len(found.pairs) - len(kept)} of {len(found.pairs)} pairs exceed the model's {model.context_length} tokens",
                hint="--drop-long leaves them out whole; no side is ever cut",
            )
        if any(lost.values()):
            notes.append(f"{name}: left out {', '.join(f'{count} {reason}' for reason, count in lost.items() if count)}")
        slices[name] = kept
    return slices, notes


def score_file(model: RewardModel, path: str | Path) -> list[dict[str, Any]]:
    """A row of JSON types for every record: both rewards and P(chosen is better) of a pair, the reward of a single answer."""
    if holds_comparisons(path):
        records: list[Record] = list(load_comparisons(path))
    else:
        records = list(read_records(path))
    sides = [_sides(record) for record in records]
    rewards = iter(model.score([(prompt, completion) for prompt, completions in sides for completion in completions.values()]))
    rows = []
    for record, (_, completions) in zip(records, sides, strict=True):
        scores = {name: next(rewards) for name in completions}
        row: dict[str, Any] = {"id": record.id, **scores}
        if len(scores) == 2:
            row["probability"] = model.probability(*scores.values())
        rows.append(row)
    return rows


def _sides(record: Record) -> tuple[Sequence[Message], dict[str, Sequence[Message]]]:
    """A record's prompt and its answers by name."""
    match record:
        case PreferencePair():
            return record.prompt, {"chosen": record.chosen, "rejected": record.rejected}
        case Comparison():
            return record.prompt, {"a": record.a, "b": record.b}
        case UnpairedLabel():
            return record.prompt, {"reward": record.completion}
        case Demonstration():
            return record.messages[:-1], {"reward": record.messages[-1:]}
        case _:
            raise DataError(f"{record.id}: a {type(record).__name__} holds no answer to score", hint="give pairs or prompts with answers")
