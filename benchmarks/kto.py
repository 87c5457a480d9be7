"""KTO beside TRL: the same labelled answers, the same optimiser work (clip, AdamW), taking turns in one process, no gradient checkpointing.

    python benchmarks/kto.py --size m135 --dtype float32
    python benchmarks/kto.py --size tiny --gradients           # relative difference of the gradient of one float32 batch
    python benchmarks/kto.py --memory ours ; python benchmarks/kto.py --memory trl [--precomputed]     # peak RSS, one process each

Both sides estimate the drift in every step on completions set under foreign prompts: TRL's own rotation within a batch, the same sequences
on both sides. ``trl`` runs its reference in every step, ``trl_precomputed`` reads its log-probabilities; ``ours`` reads them too, and
``ours_first_epoch`` computes them for its batch (answers and foreign completions) before the step, as the reference pass does.
"""

from typing import Any

from common import build_tokenizer, interleave, peak_memory_gb, report, summary
from dpo import BETA, OurSide, TrlSide, arguments, draw_pairs, encode, gradient_difference

import numpy as np  # isort: skip
import torch  # isort: skip

NAMES = ("ref_logps", "ref_KL_logps")


def draw_labels(count: int) -> list[dict[str, Any]]:
    """{"prompt", "completion", "label"}, good and bad in turn."""
    pairs = draw_pairs(count, dialogues=False)
    return [{"prompt": pair["prompt"], "completion": pair["chosen"], "label": number % 2 == 0} for number, pair in enumerate(pairs)]


class OurKto:
    """Our side on given answers and the same number of foreign completions."""

    def __init__(self, options: Any, answers: list[Any], foreign: list[Any], labels: list[bool]) -> None:
        from posttrain.objectives import objective_settings
        from posttrain.stages.preference_loss import MismatchedDrift, PreferenceLoss, add_reference
        from posttrain.training import TrainingItem

        self.size, self.foreign = options.pairs, foreign
        self.bare = [
            TrainingItem((row,), {"labels": torch.tensor([good]), "positions": torch.tensor([number])})
            for number, (row, good) in enumerate(zip(answers, labels, strict=True))
        ]
        settings = objective_settings("kto")(beta=BETA)
        self.side = OurSide(options, PreferenceLoss(settings))
        drift = MismatchedDrift(foreign, self.side.reference_sums(foreign))
        self.side.loss, self.side.before_step = PreferenceLoss(settings, drift=drift), drift.before_step
        self.items = add_reference(self.bare, self.side.reference_sums(answers))

    def step(self, step: int, *, first_epoch: bool = False) -> None:
        span = slice(step * self.size, (step + 1) * self.size)
        if first_epoch:
            self.side.reference_sums([item.sequences[0] for item in self.bare[span]] + self.foreign[span])
        self.side.step(self.items[span])


def sequences_of(trl: TrlSide, key: str) -> list[Any]:
    """TRL's own prompt and completion ids as ours takes them."""
    from posttrain.records import TokenSequence

    found = []
    for index, row in enumerate(trl.rows):
        ids = np.array([*row["prompt_ids"], *row[key]], np.int32)
        found.append(TokenSequence(ids, np.arange(len(ids)) >= len(row["prompt_ids"]), index))
    return found


def beside(options: Any, trl: TrlSide) -> OurKto:
    labels = [bool(row["label"]) for row in trl.rows]
    return OurKto(options, sequences_of(trl, "completion_ids"), sequences_of(trl, "KL_completion_ids"), labels)


def compare_gradients(options: Any, trl: TrlSide) -> None:
    """With reference values moved apart, so that margins and weights differ."""
    from dataclasses import replace

    ours, moved = beside(options, trl), torch.linspace(-20, 20, options.pairs)
    trl.store_reference(1, NAMES)
    trl.stored[0]["ref_logps"] = trl.stored[0]["ref_logps"] + moved
    items = [
        replace(item, tensors={**item.tensors, "ref_logps": item.tensors["ref_logps"] + float(amount)})
        for item, amount in zip(ours.items[: options.pairs], moved, strict=True)
    ]
    loss, sums = trl.backward(0, stored=True), ours.side.backward(items)
    difference = gradient_difference(ours.side, sums, trl)
    report("kto_gradients", size=options.size, dtype=options.dtype, relative=difference, loss=[loss, sums.loss / sums.count])


def memory_of_ours(options: Any, labels: list[Any]) -> None:
    from posttrain.stages.pairs import mismatched

    tokenizer = build_tokenizer()
    answers = [encode(tokenizer, row["prompt"], row["completion"], index) for index, row in enumerate(labels)]
    foreign = [row for row in mismatched(answers, limit=None) if row is not None]
    ours = OurKto(options, answers, foreign, [row["label"] for row in labels])
    for step in range(options.steps):
        ours.step(step)
    report("kto_memory", side="ours", peak_gb=round(peak_memory_gb(), 2), **vars(options))


def main() -> None:
    options = arguments(__doc__ or "")
    labels = draw_labels(options.pairs * options.steps)
    if options.memory == "ours":
        memory_of_ours(options, labels)
        return
    from trl import KTOConfig, KTOTrainer

    trl = TrlSide(options, (KTOTrainer, KTOConfig), labels, precomputed=bool(options.memory and options.precomputed))
    if options.memory:
        for step in range(options.steps):
            trl.step(step)
        report("kto_memory", side="trl", peak_gb=round(peak_memory_gb(), 2), **vars(options))
        return
    if options.gradients:
        compare_gradients(options, trl)
        return
    ours = beside(options, trl)
    trl.store_reference(options.steps, NAMES)
    sides = {
        "trl": trl.step,
        "trl_precomputed": lambda step: trl.step(step, stored=True),
        "ours": ours.step,
        "ours_first_epoch": lambda step: ours.step(step, first_epoch=True),
    }
    seconds = interleave(sides, options.steps, rounds=options.rounds, peer_keeps_memory=options.peer_keeps_memory)
    against = {peer: summary(seconds, peer, steps=options.steps) for peer in ("trl", "trl_precomputed")}
    report("kto_speed", **vars(options), steps_s=seconds, against=against)


if __name__ == "__main__":
    main()
