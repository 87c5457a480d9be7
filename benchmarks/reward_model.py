"""A reward model beside TRL's: the same pairs, the same optimiser work (clip, AdamW), taking turns in one process.

    python benchmarks/reward_model.py --size m135 --dtype bfloat16
    python benchmarks/reward_model.py --memory ours ; python benchmarks/reward_model.py --memory trl    # peak RSS, one process each
    python benchmarks/reward_model.py --size tiny --gradients      # float32 against TRL; bfloat16 against float32, and why it differs

A pair shares its prompt on our side (``unshared`` is ours without that). TRL's checkpointing is off unless --checkpointing.
"""

import argparse
import tempfile
from collections.abc import Callable
from typing import Any

from common import build_model, build_tokenizer, interleave, peak_memory_gb, report, summary, training_options
from dpo import draw_pairs

import numpy as np  # isort: skip
import torch  # isort: skip

BATCH = 8


def arguments() -> argparse.Namespace:
    parser = training_options(__doc__)
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing on both sides")
    return parser.parse_args()


def examples(count: int) -> list[dict[str, Any]]:
    """Conversations with a chosen and a rejected answer: the pairs of dpo.py."""
    return [{side: pair["prompt"] + pair[side] for side in ("chosen", "rejected")} for pair in draw_pairs(count, dialogues=False)]


def build_classifier(size: str) -> Any:
    """A random Llama with a score row; the same bits in every call."""
    from transformers import LlamaForSequenceClassification

    config = build_model(size).config
    config.num_labels = 1
    torch.manual_seed(0)
    return LlamaForSequenceClassification(config)


class Trl:
    """TRL's RewardTrainer driven step by step: its collator, its loss, its autocast."""

    def __init__(self, options: argparse.Namespace, pairs: list[Any], *, dtype: str) -> None:
        from datasets import Dataset
        from trl import RewardConfig, RewardTrainer

        model = build_classifier(options.size)
        model.config._name_or_path = model.name_or_path = tempfile.mkdtemp()
        config = RewardConfig(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=BATCH,
            report_to=[],
            bf16=dtype == "bfloat16",
            gradient_checkpointing=options.checkpointing,
            use_cpu=True,
            disable_tqdm=True,
            learning_rate=0.0,
            max_length=1024,
        )
        self.trainer = RewardTrainer(model=model, args=config, train_dataset=Dataset.from_list(pairs), processing_class=build_tokenizer())
        self.rows = [self.trainer.train_dataset[i] for i in range(len(self.trainer.train_dataset))]
        self.model = self.trainer.accelerator.prepare(self.trainer.model)
        self.parameters = list(self.trainer.model.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=0.0, weight_decay=0.0, fused=True)

    def backward(self, step: int) -> float:
        batch = self.trainer.data_collator(self.rows[step * BATCH : (step + 1) * BATCH])
        with self.trainer.compute_loss_context_manager():
            loss = self.trainer.compute_loss(self.model, dict(batch))
        loss.backward()
        return float(loss)

    def step(self, step: int) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.backward(step)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        return loss

    def gradients(self) -> dict[str, torch.Tensor]:
        return {name.removeprefix("module."): p.grad for name, p in self.trainer.model.named_parameters() if p.grad is not None}

    def items(self, step: int) -> list[Any]:
        """The pairs of a step as ours takes them."""
        return [as_item(row["chosen_ids"], row["rejected_ids"]) for row in self.rows[step * BATCH : (step + 1) * BATCH]]


class Ours:
    """Our model and step functions, as the training loop calls them."""

    def __init__(self, options: argparse.Namespace, *, dtype: str, share: bool = True) -> None:
        from posttrain.models import ModelSettings, ScalarModel, keep_freed_memory
        from posttrain.training import TrainingSettings

        keep_freed_memory()
        settings = ModelSettings(path="-", gradient_checkpointing=options.checkpointing)
        self.model = ScalarModel(build_classifier(options.size), settings, compute_dtype=getattr(torch, dtype))
        if not options.eager:
            self.model.compile()
        self.settings = TrainingSettings(learning_rate=1e-30, max_tokens_per_microbatch=100_000, share_prefixes=share)
        self.masters = list(self.model.trainable().values())
        self.optimizer = torch.optim.AdamW(self.masters, lr=0.0, weight_decay=0.0, fused=True)

    def backward(self, items: list[Any], loss: Callable[..., Any] | None = None) -> Any:
        from posttrain.objectives import objective_settings
        from posttrain.stages.reward_model import reward_step
        from posttrain.training.items import Microbatch
        from posttrain.training.step import accumulate

        for master in self.masters:
            master.grad = None
        loss = loss or reward_step(objective_settings("bradley_terry")())
        return accumulate(self.model, [Microbatch(0, tuple(items), torch.device("cpu"))], loss, self.settings)

    def step(self, items: list[Any]) -> float:
        from posttrain.training.step import scale_gradients

        sums = self.backward(items)
        scale_gradients([m.grad for m in self.masters if m.grad is not None], sums.count, 1.0)
        self.optimizer.step()
        self.model.refresh()
        return sums.loss / sums.count

    def gradients(self, count: int) -> dict[str, torch.Tensor]:
        return {name: master.grad / count for name, master in self.model.trainable().items()}


def as_item(chosen: list[int], rejected: list[int]) -> Any:
    from posttrain.records import TokenSequence
    from posttrain.training import TrainingItem

    sides = tuple(TokenSequence(np.array(ids, np.int32), np.zeros(len(ids), dtype=bool)) for ids in (chosen, rejected))
    return TrainingItem(sides, {"margins": torch.zeros(1), "probabilities": torch.ones(1)})


def relative(found: dict[str, torch.Tensor], true: dict[str, torch.Tensor]) -> float:
    """L2 norm of the difference over that of ``true``."""
    difference = sum(float((found[name].double() - true[name].double()).square().sum()) for name in true)
    return (difference / sum(float(tensor.double().square().sum()) for tensor in true.values())) ** 0.5


def compare_gradients(options: argparse.Namespace, pairs: list[Any]) -> None:
    """float32 against TRL; then what bfloat16 does to a pair and to each of its sides, against float32."""
    from posttrain.objectives import LossOutput

    def side(sign_chosen: float, sign_rejected: float) -> Callable[..., LossOutput]:
        """Half the sum of rewards: the coefficient a pair's sides have while nothing is learned."""

        def loss(model: Any, forest: Any, _: Any) -> LossOutput:
            rewards = model.rewards(forest)
            return LossOutput((sign_chosen * rewards[0::2] + sign_rejected * rewards[1::2]).sum() / 2, len(rewards) // 2)

        return loss

    trl = {dtype: Trl(options, pairs, dtype=dtype) for dtype in ("float32", "bfloat16")}
    ours = {dtype: Ours(options, dtype=dtype) for dtype in ("float32", "bfloat16")}
    items = trl["float32"].items(0)
    found, theirs, losses = {}, {}, {}
    for dtype in ours:
        losses[dtype] = [trl[dtype].backward(0), 0.0]
        theirs[dtype] = trl[dtype].gradients()
        sums = ours[dtype].backward(items)
        losses[dtype][1] = sums.loss / sums.count
        found[dtype] = {"pair": ours[dtype].gradients(BATCH)}
        for name, signs in (("chosen", (1.0, 0.0)), ("rejected", (0.0, 1.0))):
            ours[dtype].backward(items, side(*signs))
            found[dtype][name] = ours[dtype].gradients(BATCH)
    norms = {name: sum(float(t.double().square().sum()) for t in grads.values()) ** 0.5 for name, grads in found["float32"].items()}
    report(
        "reward_gradients",
        size=options.size,
        ours_float32_against_trl=relative(found["float32"]["pair"], theirs["float32"]),
        bfloat16_against_own_float32={name: round(relative(found["bfloat16"][name], found["float32"][name]), 5) for name in norms},
        trl_bfloat16_against_its_float32=round(relative(theirs["bfloat16"], theirs["float32"]), 5),
        norms={name: round(norm, 4) for name, norm in norms.items()},
        cancellation=round((norms["chosen"] + norms["rejected"]) / norms["pair"], 2),
        loss=losses,
    )


def main() -> None:
    options = arguments()
    pairs = examples(options.steps * BATCH)
    if options.gradients:
        options.eager = True
        compare_gradients(options, pairs)
        return
    if options.memory == "trl":
        side = Trl(options, pairs, dtype=options.dtype)
        for step in range(options.steps):
            side.step(step)
        report("reward_memory", side="trl", peak_gb=round(peak_memory_gb(), 2), **vars(options))
        return
    if options.memory == "ours":
        tokenizer, ours = build_tokenizer(), Ours(options, dtype=options.dtype)
        for step in range(options.steps):
            rows = pairs[step * BATCH : (step + 1) * BATCH]
            ids = [[tokenizer.apply_chat_template(row[name])["input_ids"] for name in ("chosen", "rejected")] for row in rows]
            ours.step([as_item(*sides) for sides in ids])
        report("reward_memory", side="ours", peak_gb=round(peak_memory_gb(), 2), **vars(options))
        return
    trl = Trl(options, pairs, dtype=options.dtype)
    batches = [trl.items(step) for step in range(options.steps)]
    shared, unshared = Ours(options, dtype=options.dtype), Ours(options, dtype=options.dtype, share=False)
    sides = {"trl": trl.step, "ours": lambda step: shared.step(batches[step]), "unshared": lambda step: unshared.step(batches[step])}
    seconds = interleave(sides, options.steps, rounds=options.rounds, peer_keeps_memory=options.peer_keeps_memory)
    tokens = [sum(item.num_tokens for item in batch) for batch in batches]
    report("reward_speed", **vars(options), tokens=tokens, steps_s=seconds, summary=summary(seconds, "trl", steps=options.steps))


if __name__ == "__main__":
    main()
