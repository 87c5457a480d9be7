"""A suite of lamps, and what runs it in a process of its own."""

import json
import sys

from tool_model import PAIRS, SIGNATURES

SUITE = """
name: lamps
version: "1"
cases: cases.jsonl
sampling: {max_new_tokens: 60}
episode: {max_steps: 3, max_tokens: 400}
scorers:
  - contains: {name: right, expected_field: colour}
  - tool_calls: {name: calls}
"""


def write_suite(root, *, repeat=1, extra=(), text=SUITE):
    """Six lamps, ``repeat`` times over: each case names its house. ``extra``: further rows."""
    root.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "id": f"{room}-{colour}-{i}",
            "messages": [{"role": "user", "content": f"colour of {room}?"}],
            "tools": list(SIGNATURES),
            "expected": {"calls": [{"get_lamp": {"room": [room]}}], "colour": [colour]},
            "slices": [colour],
            "metadata": {"world": {"name": "houses", "lamps": {room: colour}}},
        }
        for i in range(repeat)
        for room, colour in PAIRS
    ]
    (root / "cases.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, *extra]))
    (root / "suite.yaml").write_text(text)
    return root / "suite.yaml"


if __name__ == "__main__":
    from posttrain.evaluation import evaluate, load_suite
    from posttrain.generation import LocalGenerator

    model, suite, out = sys.argv[1:]
    evaluate(load_suite(suite), LocalGenerator.load(model, dtype="float32", batch_size=2), out_dir=out)
