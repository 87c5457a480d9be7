"""What a data set trains: supervised-token statistics, lengths, truncations, rows that train nothing, and a readable sample.

Works on the results of :meth:`ChatContract.supervise_each`; nothing is cut here: what a maximum length would cut is reported.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from posttrain.chat.contract import ChatContract
from posttrain.chat.supervision import MaskKind
from posttrain.errors import ContractError, DataError
from posttrain.records import Demonstration, Message, PreferencePair, Record, TokenSequence, UnpairedLabel

_LISTED, _SHOWN = 20, 5
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class RowNote:
    """Something to know about one row of the data set (``index`` counts from 1)."""

    index: int
    detail: str


@dataclass(slots=True)
class MaskReport:
    """Counts over a data set. ``refused``: rows without an exact mask. ``control_text``: rows holding literal control tokens, kept as text.

    ``unprinted``: rows of which the template can print something nowhere. ``truncated``: rows longer than ``max_length`` tokens;
    ``truncated_away``: those of them that would lose every supervised token.
    """

    mask: MaskKind
    max_length: int | None = None
    lengths: list[int] = field(default_factory=list)
    supervised: list[int] = field(default_factory=list)
    refused: list[RowNote] = field(default_factory=list)
    trains_nothing: list[RowNote] = field(default_factory=list)
    truncated: list[RowNote] = field(default_factory=list)
    truncated_away: list[RowNote] = field(default_factory=list)
    control_text: list[RowNote] = field(default_factory=list)
    unprinted: list[RowNote] = field(default_factory=list)

    @property
    def num_rows(self) -> int:
        """Rows seen, refused ones included."""
        return len(self.lengths) + len(self.refused)

    def add(self, sequence: TokenSequence) -> None:
        """Count one masked row."""
        length, supervised = len(sequence), sequence.num_supervised
        self.lengths.append(length)
        self.supervised.append(supervised)
        if not supervised:
            self.trains_nothing.append(RowNote(sequence.index, f"{length} tokens, none supervised"))
        elif self.max_length is not None and length > self.max_length:
            kept = int(sequence.completion_mask[: self.max_length].sum())
            detail = f"{length} tokens, {length - self.max_length} over; {supervised - kept} of {supervised} supervised tokens would be cut"
            self.truncated.append(RowNote(sequence.index, detail))
            if not kept:
                self.truncated_away.append(RowNote(sequence.index, detail))

    def problems(self) -> dict[str, list[RowNote]]:
        """What fails a check unless it is allowed, by name."""
        found = {"refused": self.refused, "trains-nothing": self.trains_nothing, "truncated": self.truncated, "unprinted": self.unprinted}
        return {name: notes for name, notes in found.items() if notes}

    def histogram(self) -> list[tuple[int, int, int]]:
        """(from, to, rows) by length in tokens, each bucket twice as wide as the one before; ``to`` is exclusive."""
        if not self.lengths:
            return []
        edges = [0, 32]
        while edges[-1] <= max(self.lengths):
            edges.append(edges[-1] * 2)
        counts, _ = np.histogram(self.lengths, bins=edges)
        return [(low, high, int(count)) for low, high, count in zip(edges, edges[1:], counts, strict=False)]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; at most twenty rows are listed for each kind of note, beside their count."""
        notes = ("refused", "trains_nothing", "truncated", "truncated_away", "control_text", "unprinted")
        return {
            "mask": self.mask,
            "max_length": self.max_length,
            "rows": self.num_rows,
            "tokens": sum(self.lengths),
            "supervised_tokens": sum(self.supervised),
            "length": _spread(self.lengths),
            "supervised_per_row": _spread(self.supervised),
            "histogram": [{"from": low, "to": high, "rows": rows} for low, high, rows in self.histogram()],
            **{name: _listed(getattr(self, name)) for name in notes},
        }


def mask_report(
    contract: ChatContract, rows: Iterable[Demonstration], *, mask: MaskKind = "assistant", max_length: int | None = None
) -> tuple[MaskReport, list[TokenSequence]]:
    """Mask every row and report on it. The sequences come back too, refused rows left out."""
    rows = list(rows)
    report = MaskReport(mask, max_length)
    sequences = []
    for index, (row, result) in enumerate(zip(rows, contract.supervise_each(rows, mask=mask, first_index=1), strict=True), start=1):
        if isinstance(result, ContractError):
            report.refused.append(RowNote(index, result.message.removeprefix(f"row {index}: ")))
            continue
        report.add(result)
        sequences.append(result)
        literal = contract.control_text(row.messages, row.tools)
        if literal:
            report.control_text.append(RowNote(index, " ".join(literal)))
        missing = unprinted(contract, row)
        if missing:
            report.unprinted.append(RowNote(index, ", ".join(missing)))
    return report, sequences


def demonstrations_of(record: Record) -> list[Demonstration]:
    """What of a record is supervised, as demonstrations: both sides of a pair, the completion of a label. Raises DataError for others."""
    if isinstance(record, Demonstration):
        return [record]
    if isinstance(record, PreferencePair):
        return [_completed(record, side) for side in (record.chosen, record.rejected)]
    if isinstance(record, UnpairedLabel):
        return [_completed(record, record.completion)]
    raise DataError(f"{record.id}: a {type(record).__name__} has no completion to supervise", hint="check demonstrations, pairs or labels")


def _completed(record: PreferencePair | UnpairedLabel, completion: Sequence[Message]) -> Demonstration:
    turns = (*record.prompt, *completion)
    return Demonstration(turns, record.tools, record.id, record.source, num_prompt_messages=len(record.prompt))


def unprinted(contract: ChatContract, row: Demonstration) -> list[str]:
    """Parts of a row that the template cannot print: contents, reasoning, tools. (Templates drop silently what they do not know.)

    What it prints while a turn is the last and leaves out once others follow (Qwen 3: reasoning of earlier turns) is not among them.
    """
    text = contract.render(row.messages, tools=row.tools)
    missing: list[str] = []
    for i, message in enumerate(row.messages):
        parts = {f"content of turn {i} ({message.role})": message.content, f"reasoning of turn {i}": message.reasoning or ""}
        lacking = {name: part for name, part in parts.items() if not _printed(part, text)}
        if lacking and i + 1 < len(row.messages):
            through = _rendered(contract, row.messages[: i + 1], row.tools)
            lacking = {name: part for name, part in lacking.items() if not _printed(part, through)}
        missing += lacking
    if row.tools and _rendered(contract, row.messages) == text:
        missing.append("tools")
    return missing


def _rendered(contract: ChatContract, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> str:
    """The rendering of a part of a row; empty where the template refuses the part."""
    try:
        return contract.render(messages, tools=tools)
    except ContractError:
        return ""


def _printed(part: str, text: str) -> bool:
    """Whether a text holds a part, as it is or as JSON, its white space aside (templates trim and split)."""
    if part.strip() in text or any(json.dumps(part, ensure_ascii=ascii)[1:-1] in text for ascii in (False, True)):
        return True
    return "".join(part.split()) in "".join(text.split())


def sample_segments(contract: ChatContract, sequence: TokenSequence) -> list[tuple[str, bool]]:
    """(text, supervised) runs of a row, special tokens shown, in order."""
    mask = sequence.completion_mask
    edges = [0, *(np.flatnonzero(mask[1:] != mask[:-1]) + 1).tolist(), len(mask)]
    return [
        (contract.decode(sequence.input_ids[low:high], skip_special_tokens=False), bool(mask[low]))
        for low, high in pairwise(edges)
        if high > low
    ]


def show_sample(segments: Sequence[tuple[str, bool]], *, colour: bool) -> str:
    """The segments as one text: supervised parts green and bold, or between ⟦ and ⟧ without colour. Control characters are made visible."""
    on, off, plain = ("\x1b[1;32m", "\x1b[0m", "\x1b[2m") if colour else ("⟦", "⟧", "")
    shown = ""
    for text, supervised in segments:
        safe = _CONTROL.sub(lambda match: f"\\x{ord(match.group()):02x}", text)
        shown += f"{on}{safe}{off}" if supervised else f"{plain}{safe}{off if colour else ''}"
    return shown


def report_lines(report: MaskReport) -> list[str]:
    """The report as text for people."""
    tokens, supervised = sum(report.lengths), sum(report.supervised)
    lines = [
        f"{report.num_rows} rows · {tokens} tokens · {supervised} supervised ({supervised / max(tokens, 1):.1%}) · mask '{report.mask}'"
    ]
    for name, values in (("length", report.lengths), ("supervised per row", report.supervised)):
        spread = _spread(values)
        if spread:
            lines.append(f"{name}: " + " · ".join(f"{key} {value:g}" for key, value in spread.items()))
    most = max((rows for _, _, rows in report.histogram()), default=1)
    lines += [f"  {low:>6} - {high - 1:<6} {'█' * round(40 * rows / most):<40} {rows}" for low, high, rows in report.histogram()]
    named = {
        "cannot be masked exactly": report.refused,
        "train nothing": report.trains_nothing,
        f"longer than {report.max_length} tokens": report.truncated,
        "  of which nothing supervised would be left": report.truncated_away,
        "hold control tokens in their text (kept as text)": report.control_text,
        "hold what the template cannot print": report.unprinted,
    }
    for what, notes in named.items():
        if notes:
            lines.append(f"{len(notes)} rows {what}")
            lines += [f"  row {note.index}: {note.detail}" for note in notes[:_SHOWN]]
            lines += [f"  and {len(notes) - _SHOWN} more"] if len(notes) > _SHOWN else []
    return lines


def _spread(values: Sequence[int]) -> dict[str, float]:
    if not values:
        return {}
    low, median, p95, high = np.percentile(values, [0, 50, 95, 100])
    return {"min": int(low), "median": float(median), "p95": float(p95), "max": int(high), "mean": round(float(np.mean(values)), 2)}


def _listed(notes: Sequence[RowNote]) -> dict[str, Any]:
    return {"count": len(notes), "rows": [{"index": note.index, "detail": note.detail} for note in notes[:_LISTED]]}
