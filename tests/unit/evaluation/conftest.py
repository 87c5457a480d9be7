"""Suites in temporary folders, and a generator that plays recorded answers."""

import json
from pathlib import Path

import pytest

from posttrain.records import Generation

SUITE = """
name: ledger
version: "1"
cases: cases.jsonl
sampling: {max_new_tokens: 32}
scorers:
  - json_schema: {schema: {type: object}}
  - answer: {field: answer, scale_field: scale}
  - refusal: {}
  - length: {unit: tokens}
"""


class Recorded:
    """Plays answers by the prompt's text: a Generator over a recording."""

    def __init__(self, answers, model="recorded"):
        self.identity = {"model": model}
        self.answers = answers
        self.asked = []

    def generate(self, requests, *, on_done=None):
        done = []
        for index, request in enumerate(requests):
            self.asked.append(request)
            text = self.answers[request.messages[-1].content]
            reason = "error" if text is None else "stop"
            answer = Generation(text or "", reason, 10, len((text or "").split()), 0.5 + index / 100)
            done.append(answer)
            if on_done:
                on_done(index, answer)
        return done


@pytest.fixture
def recorded():
    return Recorded


@pytest.fixture
def make_suite(tmp_path):
    """Write a suite of (question, expected, slices, group) rows; returns its path."""

    def make(rows, text=SUITE, folder="suite"):
        root = Path(tmp_path, folder)
        root.mkdir(exist_ok=True)
        cases = [
            {"id": f"c{i}", "messages": [{"role": "user", "content": q}], "expected": e, "slices": s, "group": g}
            for i, (q, e, s, g) in enumerate(rows)
        ]
        (root / "cases.jsonl").write_text("".join(json.dumps(case) + "\n" for case in cases), encoding="utf-8")
        (root / "suite.yaml").write_text(text, encoding="utf-8")
        return root / "suite.yaml"

    return make
