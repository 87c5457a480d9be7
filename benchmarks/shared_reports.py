"""TAT-QA LoRA training with shared reports, beside our own unshared path: examples a second, and equal loss and gradient.

    python benchmarks/shared_reports.py [--model smollm2-135m] [--reports 4] [--steps 4]

A step holds whole reports with all their questions. Shared: each report's tokens once. Unshared: every question carries its report.
"""

import argparse
from typing import Any

from common import interleave, report, summary

import torch  # isort: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--data", default="recipes/data/finops.jsonl.gz")
    parser.add_argument("--reports", type=int, default=4)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--unshared-microbatch", type=int, default=6, help="sequences in a micro-batch of the unshared path")
    options = parser.parse_args()

    from posttrain.chat import ChatContract
    from posttrain.data import read_records
    from posttrain.models import LoraSettings, ModelSettings, Policy, find_model
    from posttrain.stages.sft import sft_step
    from posttrain.training import TrainingSettings
    from posttrain.training.items import Microbatch, as_items
    from posttrain.training.step import accumulate, scale_gradients

    records = list(read_records(options.data))
    contract = ChatContract.load(find_model(options.model))
    groups: dict[str, list[Any]] = {}
    for record, sequence in zip(records, contract.supervise_many(records), strict=True):
        groups.setdefault(str(record.metadata.get("report")), []).append(sequence)
    whole = [group for group in groups.values() if len(group) >= 5]
    batches = [[row for group in whole[i * options.reports : (i + 1) * options.reports] for row in group] for i in range(options.steps)]
    policy = Policy.load(ModelSettings(path=options.model, dtype=options.dtype, lora=LoraSettings(), compile=True), seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, master in policy.trainable().items():
            if "lora_B" in name:
                master.copy_(torch.randn(master.shape, generator=generator) * 0.01)
    policy.refresh()
    masters = list(policy.trainable().values())
    optimizer = torch.optim.AdamW(masters, lr=0.0, weight_decay=0.0, fused=True)
    losses: dict[str, float] = {}

    def step(batch: list[Any], *, share: bool, size: int) -> None:
        settings = TrainingSettings(learning_rate=1e-30, share_prefixes=share)
        for master in masters:
            master.grad = None
        cut = [batch[i : i + size] for i in range(0, len(batch), size)]
        microbatches = [Microbatch(number, tuple(as_items(part)), torch.device("cpu")) for number, part in enumerate(cut)]
        sums = accumulate(policy, microbatches, sft_step, settings)
        losses["shared" if share else "unshared"] = sums.loss / sums.count
        scale_gradients([m.grad for m in masters if m.grad is not None], sums.count, 1e9)
        optimizer.step()
        policy.refresh()

    sides = {
        "unshared": lambda i: step(batches[i], share=False, size=options.unshared_microbatch),
        "shared": lambda i: step(batches[i], share=True, size=10**6),
    }
    gradients = {}
    for name, side in sides.items():
        side(0)
        gradients[name] = [m.grad.detach().clone() for m in masters if m.grad is not None]
    difference = sum(float((a - b).double().square().sum()) for a, b in zip(gradients["shared"], gradients["unshared"], strict=True))
    total = sum(float(b.double().square().sum()) for b in gradients["unshared"])
    at_first = dict(losses)
    seconds = interleave(sides, options.steps, warmup=0)
    best = {name: max(len(batch) / took for batch, took in zip(batches, values, strict=True)) for name, values in seconds.items()}
    report(
        "shared_reports",
        dtype=str(policy.compute_dtype),
        examples=[len(batch) for batch in batches],
        steps_s=seconds,
        summary=summary(seconds, "unshared", steps=options.steps),
        best_examples_per_second={name: round(value, 2) for name, value in best.items()},
        ratio=round(best["shared"] / best["unshared"], 2),
        loss=at_first,
        gradient_difference=(difference / total) ** 0.5,
    )


if __name__ == "__main__":
    main()
