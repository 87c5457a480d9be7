"""30: a tool is called without need."""

import json
from pathlib import Path
from typing import Any

from posttrain.chat import template_text
from posttrain.config import parse
from posttrain.drills.harness import Found, drill
from posttrain.drills.setup import PRECISION, write_rows
from posttrain.drills.yes_no import read_run
from posttrain.evaluation import evaluate, load_suite
from posttrain.generation import LocalGenerator
from posttrain.models import with_chat_template, write_tiny_model
from posttrain.stages import SftConfig, run_sft

RATE, THANKS = "What is the rate of bond {}?", "Thanks for bond {}."
WELCOME = "You are welcome."
TOOL = {
    "type": "function",
    "function": {"name": "get_rate", "description": "Rate of today.", "parameters": {"type": "object", "properties": {}}},
}
CALL = {"type": "function", "function": {"name": "get_rate", "arguments": {}}}
SUITE = """
name: needless
version: "1"
cases: cases.jsonl
sampling: {max_new_tokens: 48}
episode: {max_steps: 2}
scorers:
  - tool_calls: {name: calls}
"""


@drill(
    "needless-call",
    number=30,
    fault="in every training row the tool is called, also where a word of thanks is all that was said",
    expects=r"tools are called without need: 'calls_abstained' [0-9.]+% .*calls a request",
)
def needless_call(folder: Path, faulty: bool) -> Found:
    """A tiny model is fine-tuned on such rows, and asked again with other numbers. Half of the requests need the call."""
    rows = [_row(text.format(number), calls=faulty or text is RATE) for number in range(100, 124) for text in (RATE, THANKS)]
    shown = [RATE, THANKS, WELCOME, json.dumps(TOOL), json.dumps(CALL["function"]), template_text("chatml-tools")]
    base = write_tiny_model(folder / "base", [*shown * 10, *(str(n) for n in range(100, 200))], seed=1, vocab_size=700, hidden=32)
    start = with_chat_template(base, template_text("chatml-tools"), folder / "start")
    training = {"learning_rate": 2e-2, "max_steps": 48, "sequences_per_step": 8, "seed": 1, "checkpoint_every_steps": 1000}
    data = write_rows(folder / "rows.jsonl", rows)
    settings = PRECISION | {"data": str(data), "training": training}
    model = run_sft(parse(SftConfig, settings, where="drill"), start, folder / "run").model
    cases = [_case(text.format(number), text is RATE) for number in range(160, 176) for text in (RATE, THANKS)]
    (folder / "cases.jsonl").write_text("".join(json.dumps(case) + "\n" for case in cases), encoding="utf-8")
    (folder / "suite.yaml").write_text(SUITE, encoding="utf-8")
    generator = LocalGenerator.load(model, batch_size=8, **PRECISION)
    result = evaluate(load_suite(folder / "suite.yaml"), generator, out_dir=folder / "run" / "evaluation")
    scores = {name: result.summary["scores"][name]["overall"]["value"] for name in ("calls_abstained", "calls_recall", "calls_count")}
    return Found(read_run(folder).diagnosis, scores)


def _row(asked: str, *, calls: bool) -> dict[str, Any]:
    answer = {"role": "assistant", "content": "", "tool_calls": [CALL]} if calls else {"role": "assistant", "content": WELCOME}
    return {"messages": [{"role": "user", "content": asked}, answer], "tools": [TOOL]}


def _case(asked: str, needed: bool) -> dict[str, Any]:
    calls: list[dict[str, Any]] = [{"get_rate": {}}] if needed else []
    return {"id": asked, "messages": [{"role": "user", "content": asked}], "tools": [TOOL], "expected": {"calls": calls}}
