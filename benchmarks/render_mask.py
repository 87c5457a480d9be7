"""Check + render + mask against TRL's way (datasets.map over apply_chat_template with the assistant mask), rows a minute on one core.

    python benchmarks/render_mask.py                                          # invented rows of GSM8K's size
    python benchmarks/render_mask.py --data train.jsonl --model models/smollm2-135m

Ours does more: it derives the mask without markers, checks it, counts, and looks for control tokens and dropped parts. The peer needs
`{% generation %}` markers, so it is given a ChatML template that has them; the same rows, the same tokenizer, one process, one thread.
"""

import argparse
import logging
import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from pathlib import Path
from typing import Any

import common
import datasets

from posttrain.chat import ChatContract, mask_report
from posttrain.data import read_records
from posttrain.records import Demonstration, Message

MARKED = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}"
    "{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
PLAIN = MARKED.replace("{% generation %}", "").replace("{% endgeneration %}", "")


def invented(count: int) -> list[Demonstration]:
    """Rows of GSM8K's size: a question of 45 words, an answer of 80 (about 215 tokens)."""
    mix = common.LengthMix(1)
    return [Demonstration((Message("user", mix.text(45)), Message("assistant", mix.text(80)))) for _ in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rows", type=int, default=1500)
    parser.add_argument("--steps", type=int, default=5)
    args = parser.parse_args()
    datasets.disable_progress_bars()
    datasets.disable_caching()
    logging.disable(logging.WARNING)

    rows = invented(args.rows)
    if args.data:
        rows = [row for row in read_records(args.data, "demonstration") if isinstance(row, Demonstration)][: args.rows]
    contract = ChatContract.load(args.model, template=PLAIN) if args.model else ChatContract(common.build_tokenizer(), PLAIN)
    tokenizer = contract.tokenizer
    table = datasets.Dataset.from_list([{"messages": [{"role": m.role, "content": m.content} for m in row.messages]} for row in rows])

    def theirs(_: int) -> Any:
        def tokenize(example: dict[str, Any]) -> dict[str, Any]:
            messages = example["messages"]
            out = tokenizer.apply_chat_template(messages, chat_template=MARKED, return_dict=True, return_assistant_tokens_mask=True)
            return {"input_ids": out["input_ids"], "assistant_masks": out["assistant_masks"]}

        return table.map(tokenize)

    def ours(_: int) -> Any:
        return mask_report(contract, rows)

    _, sequences = ours(0)
    reference = theirs(0)
    for sequence, row in zip(sequences, reference, strict=True):
        if sequence.input_ids.tolist() != row["input_ids"] or sequence.completion_mask.astype(int).tolist() != row["assistant_masks"]:
            raise SystemExit(f"row {sequence.index}: the two sides differ")

    summary = common.summary(common.interleave({"ours": ours, "trl": theirs}, args.steps, peer_keeps_memory=True), "trl", steps=args.steps)
    per_minute = {name: round(60 * len(rows) / values["best_s"]) for name, values in summary.items()}
    tokens = sum(map(len, sequences)) / len(sequences)
    common.report("render_mask", rows=len(rows), mean_tokens=round(tokens, 1), rows_per_minute=per_minute, sides=summary)


if __name__ == "__main__":
    main()
