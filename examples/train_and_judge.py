"""From Python: make a tiny start model, fine-tune it, evaluate before and after, and let the gate judge.

python examples/train_and_judge.py FOLDER
"""

import sys
from pathlib import Path

from posttrain.data import read_records
from posttrain.evaluation import evaluate, load_suite
from posttrain.generation import LocalGenerator
from posttrain.models import write_tiny_model
from posttrain.recipes import write_starter
from posttrain.records import Demonstration
from posttrain.release import judge, load_gate, verdict_lines
from posttrain.stages import SftConfig, run_sft


def main(folder: Path) -> str:
    write_starter(folder, "booking")
    data, suite = folder / "recipes/data/booking.jsonl", load_suite(folder / "suites/booking.yaml")
    texts = [message.content for row in read_records(data, Demonstration) if isinstance(row, Demonstration) for message in row.messages]
    start = write_tiny_model(folder / "start", texts, seed=17, vocab_size=512, hidden=64, layers=2, heads=4, max_length=256)

    before = evaluate(suite, LocalGenerator.load(start, batch_size=32), out_dir=folder / "before", name="start")
    config = SftConfig(data=str(data), training={"learning_rate": 1e-2, "epochs": 5, "sequences_per_step": 24})
    trained = run_sft(config, start, folder / "sft")
    after = evaluate(suite, LocalGenerator.load(trained.model, batch_size=32), out_dir=folder / "after", name="trained")

    verdict = judge(after, before, load_gate(folder / "suites/booking-gate.yaml"))
    print("\n".join(verdict_lines(verdict)))
    return verdict.status


if __name__ == "__main__":
    main(Path(sys.argv[1]))
