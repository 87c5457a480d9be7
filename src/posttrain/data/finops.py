"""The financial-operations data: a slice of TAT-QA as training conversations and as the cases of a suite, split by report.

``build_finops(slice)`` is a pure function of the slice's bytes and the policy text. Reports that share text are kept on one
side; the suite is chosen first and training rows that share thirteen words with it are left out.

Command: ``python -m posttrain.data.finops build`` (rewrite the shipped files) or ``select ORIGINAL`` (rewrite the slice).
"""

import gzip
import hashlib
import io
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.config import read_yaml
from posttrain.config.files import write_json, write_text
from posttrain.data.tatqa import (
    ANSWER_SCHEMA,
    Item,
    Question,
    Report,
    build_answer,
    build_demonstration,
    build_messages,
    find_evidence,
    is_year,
    numbers_in,
    read_tatqa,
    render_report,
)
from posttrain.data.unanswerable import absent_items
from posttrain.errors import DataError
from posttrain.records import Demonstration

SEED = 17
MAX_REPORT_TOKENS = 450
MAX_ANSWER_CHARACTERS = 200
NUM_SUITE_REPORTS = 30
NUM_SUITE_ANSWERABLE = 120
SLICE_TARGET = 32
NGRAM = 13
SLICE, TRAIN = "recipes/data/tatqa-slice.json.gz", "recipes/data/finops.jsonl.gz"
SUITE, SCHEMA, POLICY = "suites/finops.jsonl", "suites/finops.schema.json", "policies/finops.yaml"


@dataclass(frozen=True, slots=True)
class FinopsData:
    """Training conversations, suite cases (JSON objects) and the counts of everything kept and left out."""

    demonstrations: list[Demonstration]
    cases: list[dict[str, Any]]
    counts: dict[str, int]


def build_finops(slice_path: str | Path, policy_text: str) -> FinopsData:
    """Split, convert and check the shipped slice; the same bytes in give the same records out."""
    reports = read_tatqa(slice_path)
    counts: Counter[str] = Counter(reports=len(reports), questions=sum(len(r.questions) for r in reports))
    usable = {report.uid: _usable(report, counts) for report in reports}
    held_out, training = _split(reports, usable)
    suite_items = _choose_cases([item for report in held_out for item in usable[report.uid]])
    suite_items += absent_items(held_out, usable, order=_draw)
    suite_grams = {gram for item in suite_items for gram in _prompt_grams(item)}
    train_items = []
    for item in [*(item for report in training for item in usable[report.uid]), *absent_items(training, usable, order=_draw)]:
        if suite_grams.isdisjoint(_prompt_grams(item)):
            train_items.append(item)
        else:
            counts["left_out_shared_with_suite"] += 1
    order = {report.uid: index for index, report in enumerate(sorted(reports, key=lambda r: _draw(r.uid)))}
    train_items.sort(key=lambda item: (order[item.report.uid], _draw(item.id)))
    suite_items.sort(key=lambda item: (order[item.report.uid], item.id))
    counts.update(
        train_reports=len({item.report.uid for item in train_items}),
        train_rows=len(train_items),
        train_not_in_report=sum(item.evidence is None for item in train_items),
        suite_reports=len(held_out),
        suite_cases=len(suite_items),
        suite_not_in_report=sum(item.evidence is None for item in suite_items),
    )
    demonstrations = [build_demonstration(i.report, i.question, i.answer, policy_text, id=i.id) for i in train_items]
    return FinopsData(demonstrations, [_case(item, policy_text) for item in suite_items], dict(counts))


def _usable(report: Report, counts: Counter[str]) -> list[Item]:
    """Questions with exactly located evidence and a short answer; the others are counted by reason."""
    items = []
    for question in report.questions:
        evidence = find_evidence(report, question)
        if evidence.status != "exact":
            counts[f"left_out_evidence_{evidence.status}"] += 1
        elif len(json.dumps(build_answer(question, evidence), ensure_ascii=False)) > MAX_ANSWER_CHARACTERS:
            counts["left_out_long_answer"] += 1
        else:
            items.append(Item(report, question, evidence))
    return items


def _case(item: Item, policy_text: str) -> dict[str, Any]:
    messages = build_messages(item.report, item.question.text, policy_text)
    return {
        "id": item.id,
        "messages": [{"role": message.role, "content": message.content} for message in messages],
        "expected": item.answer,
        "slices": [*_kinds(item.question), "answerable"] if item.evidence else ["not_in_report"],
        "group": item.report.uid,
        "metadata": {"report": item.report.uid, "question": item.question.uid, "source": "tatqa"},
    }


# ---- splitting ------------------------------------------------------------------------------------------------------------


def cluster_reports(reports: Sequence[Report]) -> list[list[Report]]:
    """Groups that must stay on one side of the split.

    Two reports are joined when their paragraphs share a run of thirteen words or four runs of eight, or when their tables share
    a row with two figures that are not years.
    """
    owner = list(range(len(reports)))

    def find(index: int) -> int:
        while owner[index] != index:
            index = owner[index]
        return index

    for minimum, features in ((1, _long_runs), (4, _short_runs), (1, _figure_rows)):
        holders: dict[Any, list[int]] = defaultdict(list)
        for index, report in enumerate(reports):
            for feature in features(report):
                holders[feature].append(index)
        shared = Counter((a, b) for group in holders.values() for a in group for b in group if a < b)
        for (a, b), count in shared.items():
            if count >= minimum:
                owner[find(b)] = find(a)
    groups: dict[int, list[Report]] = defaultdict(list)
    for index, report in enumerate(reports):
        groups[find(index)].append(report)
    return list(groups.values())


def _long_runs(report: Report) -> set[tuple[str, ...]]:
    return _grams(" ".join(report.paragraphs.values()), 13)


def _short_runs(report: Report) -> set[tuple[str, ...]]:
    return _grams(" ".join(report.paragraphs.values()), 8)


def _figure_rows(report: Report) -> set[tuple[str, ...]]:
    return {row for row in report.cells if len([n for cell in row[1:] for n in numbers_in(cell) if not is_year(n)]) >= 2}


def _grams(text: str, size: int) -> set[tuple[str, ...]]:
    tokens = re.findall(r"\w+", text.lower())
    return {tuple(tokens[start : start + size]) for start in range(len(tokens) - size + 1)}


def _prompt_grams(item: Item) -> set[tuple[str, ...]]:
    return _grams(f"{render_report(item.report)}\n\nQuestion: {item.question.text}", NGRAM)


def _draw(key: str) -> str:
    """A seeded order that does not depend on the order of the file."""
    return hashlib.sha256(f"{SEED}:{key}".encode()).hexdigest()


def _split(reports: Sequence[Report], usable: Mapping[str, Sequence[Item]]) -> tuple[list[Report], list[Report]]:
    """Held-out and training reports. Held out one by one: the report that fills most of the slices still below target."""
    groups = sorted(cluster_reports(reports), key=lambda group: _draw(group[0].uid))
    single = [group[0] for group in groups if len(group) == 1 and usable[group[0].uid]]
    filled: Counter[str] = Counter()
    kinds = {report.uid: Counter(name for item in usable[report.uid] for name in _kinds(item.question)) for report in single}

    def gain(report: Report) -> int:
        return sum(min(count, max(SLICE_TARGET - filled[name], 0)) for name, count in kinds[report.uid].items())

    held_out: list[Report] = []
    while single and len(held_out) < NUM_SUITE_REPORTS:
        best = max(single, key=gain)
        single.remove(best)
        held_out.append(best)
        filled.update(kinds[best.uid])
    chosen = {report.uid for report in held_out}
    return held_out, [report for group in groups for report in group if report.uid not in chosen]


def _choose_cases(items: Sequence[Item]) -> list[Item]:
    """Cases one by one: the item that serves most slices still below :data:`SLICE_TARGET`."""
    left = sorted(items, key=lambda item: _draw(item.id))
    filled: Counter[str] = Counter()

    def need(item: Item) -> int:
        return sum(filled[name] < SLICE_TARGET for name in _kinds(item.question))

    chosen: list[Item] = []
    while left and len(chosen) < NUM_SUITE_ANSWERABLE:
        best = max(left, key=need)
        left.remove(best)
        chosen.append(best)
        filled.update(_kinds(best.question))
    return chosen


def _kinds(question: Question) -> list[str]:
    return [f"type:{question.answer_type}", f"from:{question.answer_from}"]


# ---- files ----------------------------------------------------------------------------------------------------------------


def select_slice(original: str | Path) -> list[dict[str, Any]]:
    """The rows of an original TAT-QA file whose rendered report is short (:data:`MAX_REPORT_TOKENS`), in their own order and form."""
    rows: list[dict[str, Any]] = json.loads(Path(original).read_text(encoding="utf-8"))
    keep = {report.uid for report in read_tatqa(original) if estimate_tokens(render_report(report)) <= MAX_REPORT_TOKENS}
    return [row for row in rows if row["table"]["uid"] in keep]


def estimate_tokens(text: str) -> int:
    """Tokens of a table-like text without a tokenizer: digits, words and signs (3 % below SmolLM2's count on these reports)."""
    return len(re.findall(r"\d|[A-Za-z]{1,9}|[^\w\s]", text))


def read_system_prompt(policy: str | Path) -> str:
    """The text a model is given, from a policy file (``system_prompt``)."""
    text = read_yaml(policy).get("system_prompt")
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{policy}: 'system_prompt' is missing or empty", hint="write the rules the model is given under that key")
    return text.strip()


def lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """JSON Lines, compact, keys in the order given."""
    return "".join(json.dumps(row, separators=(",", ":"), ensure_ascii=False) + "\n" for row in rows)


def training_rows(demonstrations: Iterable[Demonstration]) -> list[dict[str, Any]]:
    """Demonstrations in the field's usual columns."""
    return [
        {
            "id": d.id,
            "messages": [{"role": m.role, "content": m.content} for m in d.messages],
            "source": d.source,
            "metadata": dict(d.metadata),
        }
        for d in demonstrations
    ]


def write_gzip(path: Path, text: str) -> None:
    """Gzip without a time stamp, so that equal text gives an equal file."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0, filename="") as stream:
        stream.write(text.encode("utf-8"))
    path.write_bytes(buffer.getvalue())


def main(arguments: Sequence[str]) -> None:
    """``build`` or ``select ORIGINAL``, run in the project's root folder."""
    if list(arguments[:1]) == ["select"] and len(arguments) == 2:
        write_gzip(Path(SLICE), json.dumps(select_slice(arguments[1]), ensure_ascii=False, separators=(",", ":")))
    elif list(arguments) == ["build"]:
        data = build_finops(SLICE, read_system_prompt(POLICY))
        write_gzip(Path(TRAIN), lines(training_rows(data.demonstrations)))
        write_text(SUITE, lines(data.cases))
        write_json(SCHEMA, ANSWER_SCHEMA)
        slices = Counter(name for case in data.cases for name in case["slices"])
        print(json.dumps({"counts": data.counts, "suite_slices": dict(sorted(slices.items()))}, indent=2))
    else:
        raise SystemExit("usage: python -m posttrain.data.finops build | select ORIGINAL")


if __name__ == "__main__":
    main(sys.argv[1:])
