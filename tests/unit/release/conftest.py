"""A frozen gate over a small suite, and evaluations played from recordings."""

import json

import pytest

from posttrain.evaluation import evaluate, load_suite
from posttrain.records import Generation
from posttrain.release import freeze_gate, load_gate

SUITE = """
name: yesno
version: "1"
cases: cases.jsonl
scorers:
  - exact: {}
  - length: {unit: words}
"""
GATE = """
name: yesno-gate
suite: suite.yaml
good: {requires: [exact]}
"""


class Recorded:
    """Plays one answer a case, in order; None is an answer that never came."""

    def __init__(self, answers, model):
        self.identity = {"model": model}
        self._answers = answers

    def generate(self, requests, *, on_done=None):
        for index, request in enumerate(requests):
            text = self._answers[int(request.id.removeprefix("c").partition("#")[0])]
            on_done(index, Generation(text or "", "error" if text is None else "stop", 100, 20, 0.1 * (index + 1)))
        return []


class Bench:
    """Writes the suite and gate, evaluates recordings, loads the gate."""

    def __init__(self, root):
        self.root = root

    def write(self, num_cases, *, gate=GATE, suite=SUITE, slices=None, prompt="question {}", freeze=True):
        rows = [
            {
                "id": f"c{i}",
                "messages": [{"role": "user", "content": prompt.format(i)}],
                "expected": "yes",
                "slices": [slices[i]] if slices else [],
            }
            for i in range(num_cases)
        ]
        (self.root / "cases.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (self.root / "suite.yaml").write_text(suite)
        (self.root / "gate.yaml").write_text(gate)
        if freeze:
            freeze_gate(self.root / "gate.yaml")
        return self

    @property
    def gate(self):
        return load_gate(self.root / "gate.yaml")

    def run(self, name, answers, **options):
        generator = Recorded(answers, name)
        return evaluate(load_suite(self.root / "suite.yaml"), generator, out_dir=self.root / name, name=name, **options)


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def answers(num_yes, num_no):
    return ["yes"] * num_yes + ["no"] * num_no


@pytest.fixture
def yes_no():
    return answers
