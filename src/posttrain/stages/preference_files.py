"""Any file of preferences as pairs: pairs as they are, judgements of several people by majority."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from posttrain.data import load_comparisons, read_records
from posttrain.data.shapes import matching, shapes
from posttrain.data.sources import open_source
from posttrain.feedback import build_pairs
from posttrain.records import Comparison, PreferencePair


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
