"""TAT-QA (Zhu et al. 2021, arXiv:2105.07624): questions over a table and its paragraphs, as demonstrations in strict JSON.

Reads the set's own JSON (a list of ``{table: {uid, table}, paragraphs: [...], questions: [...]}``), gives every cell and
paragraph a stable reference (``r2c1``: row 2, column 1 of the table as published, both from 0; ``p3``: the paragraph whose
``order`` is 3) and maps each answer to the references it was taken from. The report comes first and the question last, so that
all questions about one report share their leading tokens.

Answer, keys always in this order: ``{"evidence":["r2c1 1,452.4","p2"],"answer":"$1,496.5","scale":"million"}``. The evidence
comes first so that a model names its cells before it answers. An unanswerable question gets ``{"not_in_report":true}``.
"""

import gzip
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from posttrain.errors import DataError
from posttrain.records import Demonstration, Message

SCALES = ("", "thousand", "million", "billion", "percent")
NOT_IN_REPORT = '{"not_in_report":true}'
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?|\.\d+")
_YEAR = re.compile(r"(?:19|20)\d\d")

ANSWER_SCHEMA: dict[str, Any] = {
    "oneOf": [
        {
            "type": "object",
            "properties": {
                "evidence": {
                    "type": "array",
                    "minItems": 1,
                    "items": {"type": "string", "pattern": "^(p[0-9]+|r[0-9]+c[0-9]+ .+)$"},
                },
                "answer": {
                    "oneOf": [
                        {"type": "string", "minLength": 1},
                        {"type": "number"},
                        {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}},
                    ]
                },
                "scale": {"enum": list(SCALES)},
            },
            "required": ["evidence", "answer", "scale"],
            "additionalProperties": False,
        },
        {
            "type": "object",
            "properties": {"not_in_report": {"const": True}},
            "required": ["not_in_report"],
            "additionalProperties": False,
        },
    ]
}
"""JSON Schema (2020-12) of every answer: an answer with its evidence, or the not-in-report object."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question as published. ``answer`` is a string, a number or a tuple of strings; ``paragraphs`` are the set's rel_paragraphs."""

    uid: str
    text: str
    answer: str | int | float | tuple[str, ...]
    scale: str
    answer_type: str
    answer_from: str
    derivation: str
    paragraphs: tuple[int, ...]
    comparison: bool


@dataclass(frozen=True, slots=True)
class Report:
    """One table with its paragraphs. ``cells[row][column]`` is text with white space collapsed; ``paragraphs`` maps order to text."""

    uid: str
    cells: tuple[tuple[str, ...], ...]
    paragraphs: Mapping[int, str]
    questions: tuple[Question, ...]


EvidenceStatus = Literal["exact", "ambiguous", "unmapped"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """``references`` in reading order, cells first.

    Status: every part of the answer has one best place (exact), some part has a tie (ambiguous) or no place (unmapped).
    """

    references: tuple[str, ...]
    status: EvidenceStatus


def read_tatqa(path: str | Path) -> list[Report]:
    """All reports of an original TAT-QA file (``.json`` or ``.json.gz``). Raises DataError naming file, report, field and value."""
    file = Path(path)
    try:
        raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        rows = json.loads(raw.decode("utf-8"))
    except FileNotFoundError:
        raise DataError(f"{file}: no such file", hint="give the path of an original TAT-QA file, such as tatqa_dataset_dev.json") from None
    except (OSError, EOFError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{file}: not a readable JSON file: {error}", hint="download the original file again") from None
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{file}: expected a list of reports, found {type(rows).__name__}", hint="give an original TAT-QA file")
    return [_report(row, f"{file}: report {index}") for index, row in enumerate(rows, 1)]


def _report(row: Any, where: str) -> Report:
    try:
        cells = tuple(tuple(_clean(str(cell)) for cell in line) for line in row["table"]["table"])
        paragraphs = {int(p["order"]): _clean(p["text"]) for p in sorted(row["paragraphs"], key=lambda p: int(p["order"]))}
        questions = tuple(_question(q, where) for q in row["questions"])
        return Report(uid=row["table"]["uid"], cells=cells, paragraphs=paragraphs, questions=questions)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{where}: missing or wrong field: {error!r}", hint="the file must keep TAT-QA's own columns") from None


def _question(row: Mapping[str, Any], where: str) -> Question:
    answer = row["answer"]
    if row["scale"] not in SCALES:
        raise DataError(f"{where}, question {row['uid']}: scale {row['scale']!r}", hint=f"accepted: {', '.join(map(repr, SCALES))}")
    if isinstance(answer, list):
        parts = tuple(_clean(str(part)) for part in answer)
        answer = parts[0] if len(parts) == 1 and row["answer_type"] != "multi-span" else parts
    elif isinstance(answer, str):
        answer = float(answer) if row["answer_type"] in ("arithmetic", "count") else _clean(answer)
    if isinstance(answer, float) and answer.is_integer():
        answer = int(answer)
    return Question(
        uid=row["uid"],
        text=_clean(row["question"]),
        answer=answer,
        scale=row["scale"],
        answer_type=row["answer_type"],
        answer_from=row["answer_from"],
        derivation=_clean(row["derivation"]),
        paragraphs=tuple(sorted(int(order) for order in row["rel_paragraphs"])),
        comparison=bool(row["req_comparison"]),
    )


def _clean(text: str) -> str:
    return " ".join(text.split())


def render_report(report: Report) -> str:
    """The report as the model reads it: a line of column names, one line per table row, one line per paragraph."""
    width = max(len(row) for row in report.cells)
    lines = ["|".join(["", *(f"c{column}" for column in range(width))])]
    lines += ["|".join([f"r{index}", *row]) for index, row in enumerate(report.cells)]
    lines += [f"p{order}: {text}" for order, text in report.paragraphs.items()]
    return "\n".join(lines)


def build_messages(report: Report, question: str, policy_text: str) -> tuple[Message, Message]:
    """System rules, then the report followed by the question: equal leading tokens for every question about one report."""
    return Message("system", policy_text), Message("user", f"{render_report(report)}\n\nQuestion: {question}")


def build_answer(question: Question, evidence: Evidence) -> dict[str, Any]:
    """The expected answer as a JSON object, keys in their fixed order."""
    answer = list(question.answer) if isinstance(question.answer, tuple) else question.answer
    return {"evidence": list(evidence.references), "answer": answer, "scale": question.scale}


def dump_answer(answer: Mapping[str, Any]) -> str:
    """The one spelling of an answer that is trained: compact separators, key order as given, no escapes for non-ASCII."""
    return json.dumps(answer, separators=(",", ":"), ensure_ascii=False)


def build_demonstration(report: Report, question: Question, answer: Mapping[str, Any], policy_text: str, *, id: str) -> Demonstration:
    """One training conversation."""
    messages = (*build_messages(report, question.text, policy_text), Message("assistant", dump_answer(answer)))
    return Demonstration(messages=messages, id=id, source="tatqa", metadata={"report": report.uid, "question": question.uid})


# ---- evidence -------------------------------------------------------------------------------------------------------------


def find_evidence(report: Report, question: Question) -> Evidence:
    """Map a question to the cells and paragraphs its answer was taken from.

    Paragraphs are the set's ``rel_paragraphs``. Cells follow from the published answer and derivation: each number of an
    arithmetic derivation or a comparison, each ``##`` item of a count and each answer span must be found in a cell (numbers
    compared by value without sign, currency or thousands separator; texts without case or white space) or, failing that, in a
    related paragraph. Where several cells hold the value, the one whose row label and column heading share most words with the
    question wins; a tie is ``ambiguous``. A part found nowhere makes the question ``unmapped``.
    """
    wanted = _wanted_parts(question)
    if not wanted or any(order not in report.paragraphs for order in question.paragraphs):
        return Evidence((), "unmapped")
    cells: dict[tuple[int, int], None] = {}
    status: EvidenceStatus = "exact"
    related = " ".join(report.paragraphs[order] for order in question.paragraphs)
    for part in wanted:
        places = [] if question.answer_from == "text" else _cells_holding(report, part)
        if places:
            best = _best_places(report, question, places)
            status = "ambiguous" if len(best) > 1 else status
            cells[best[0]] = None
        elif not _in_text(part, related):
            return Evidence((), "unmapped")
    references = [f"r{row}c{column} {report.cells[row][column]}" for row, column in sorted(cells)]
    references += [f"p{order}" for order in question.paragraphs]
    return Evidence(tuple(references), status) if references else Evidence((), "unmapped")


def _wanted_parts(question: Question) -> list[str]:
    """What has to be located: operands or items of the derivation, and the answer itself when it is text."""
    spans = list(question.answer) if isinstance(question.answer, tuple) else [question.answer] if isinstance(question.answer, str) else []
    if question.answer_type == "count":
        return [item.strip() for item in question.derivation.split("##") if item.strip()]
    if question.answer_type == "arithmetic":
        return operands(question.derivation)
    if question.comparison:
        compared = operands(question.derivation) if re.fullmatch(r"[\d\s.,$%()<>=-]+", question.derivation) else []
        return [*compared, *spans] if compared else []
    return spans


def operands(derivation: str) -> list[str]:
    """Numbers of a derivation without the constants of its formula: ``/2`` to ``/9`` after a bracket, ``*100``, ``-1`` after a ratio."""
    text = re.sub(r"\)\s*/\s*[2-9](?![\d.,])", ")", derivation)
    text = re.sub(r"[*x×]\s*100\b%?(?![.,]\d)", "", text)
    text = re.sub(r"(/[^-+]*)-\s*1\s*$", r"\1", text)
    text = re.sub(r"^\(?1\s*-(?=.*%)", "", text)
    return _NUMBER.findall(text)


def numbers_in(text: str) -> set[str]:
    """Every number in a text by value, without sign or separators: ``"$ (1,452.40)"`` gives ``{"1452.4"}``."""
    return {_plain(found) for found in _NUMBER.findall(text)}


def is_year(number: str) -> bool:
    """Whether a number is a year from 1900 to 2099."""
    return bool(_YEAR.fullmatch(number))


def _plain(number: str) -> str:
    digits = number.replace(",", "")
    whole, _, fraction = digits.partition(".")
    fraction = fraction.rstrip("0")
    return (whole.lstrip("0") or "0") + (f".{fraction}" if fraction else "")


def _cells_holding(report: Report, part: str) -> list[tuple[int, int]]:
    number = _only_number(part)
    key = _letters(part)
    found = []
    for row, line in enumerate(report.cells):
        for column, text in enumerate(line):
            if text and (_letters(text) == key if number is None else _only_number(text) == number):
                found.append((row, column))
    return found


def _only_number(text: str) -> str | None:
    """The value of a text that is one number with currency, sign, percent or brackets around it; None for any other text."""
    match = re.fullmatch(r"[\s$€£¥(+-]*(" + _NUMBER.pattern + r")[\s%)]*", text)
    return _plain(match[1]) if match else None


def _letters(text: str) -> str:
    return re.sub(r"[\W_]+", "", text).lower()


def _in_text(part: str, text: str) -> bool:
    number = _only_number(part)
    return number in numbers_in(text) if number is not None else _letters(part) in _letters(text)


def _best_places(report: Report, question: Question, places: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    asked = words(question.text)
    scores = [len(asked & _labels(report, row, column)) for row, column in places]
    return [place for place, score in zip(places, scores, strict=True) if score == max(scores)]


def _labels(report: Report, row: int, column: int) -> set[str]:
    """Words that name a cell: its row label (column 0) and the headings above it in its column."""
    above: list[str] = []
    for line in report.cells[:row]:
        if len(line) > column and (not line[0] or not any(_only_number(cell) for cell in line[1:])):
            above.append(line[column])
    return words(" ".join([report.cells[row][0], *above]))


def words(text: str) -> set[str]:
    """Lower-case words and numbers of a text."""
    return set(re.findall(r"[a-z]+|\d+", text.lower()))


@dataclass(frozen=True, slots=True)
class Item:
    """A question asked over a report; ``evidence`` None means that the report does not hold its answer."""

    report: Report
    question: Question
    evidence: Evidence | None

    @property
    def id(self) -> str:
        """Stable name: the report and the question, and whether the pair is a made unanswerable one."""
        return f"{self.report.uid[:8]}-{self.question.uid[:8]}" + ("" if self.evidence else "-absent")

    @property
    def answer(self) -> dict[str, Any]:
        """The expected JSON object."""
        return build_answer(self.question, self.evidence) if self.evidence else json.loads(NOT_IN_REPORT)


def status_counts(reports: Iterable[Report]) -> dict[str, int]:
    """How many questions have exact, ambiguous and unmapped evidence."""
    counts: dict[str, int] = {"exact": 0, "ambiguous": 0, "unmapped": 0}
    for report in reports:
        for question in report.questions:
            counts[find_evidence(report, question).status] += 1
    return counts
