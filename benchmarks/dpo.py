"""DPO beside TRL: the same pairs, the same optimiser work (clip, AdamW), taking turns in one process, no gradient checkpointing.

    python benchmarks/dpo.py --size m135 --dtype float32       # against TRL plain and TRL with precomputed reference
    python benchmarks/dpo.py --size m135 --dialogues           # HH-like prompts: our shared path against our unshared one, no peer
    python benchmarks/dpo.py --size tiny --gradients           # relative difference of the gradient of one float32 batch
    python benchmarks/dpo.py --memory ours ; python benchmarks/dpo.py --memory trl [--precomputed]     # peak RSS, one process each
    python benchmarks/dpo.py --pairs 4                         # fewer pairs on both sides, where TRL does not fit

Sides: ``trl`` runs its reference in every step, ``trl_precomputed`` reads its log-probabilities; ``ours`` reads them too, and
``ours_first_epoch`` computes them for its batch before the step, as the reference pass does. Every pair shares its prompt in ours.
Dialogues: prompt words clip(lognormal(ln 64, 1.1), 7, 600), answers clip(lognormal(ln 24, 0.95), 4, 200),
after HH-RLHF harmless.
"""

import argparse
import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from common import LengthMix, build_model, build_tokenizer, interleave, peak_memory_gb, report, summary, training_options

import numpy as np  # isort: skip
import torch  # isort: skip

BETA = 0.1


def arguments(description: str) -> argparse.Namespace:
    parser = training_options(description)
    parser.add_argument("--pairs", type=int, default=8, help="pairs (kto: labelled answers) in a step, both sides")
    parser.add_argument("--dialogues", action="store_true", help="HH-like pairs, our shared path against our unshared one")
    parser.add_argument("--precomputed", action="store_true", help="with --memory trl: without a reference model in memory")
    return parser.parse_args()


def draw_pairs(count: int, *, dialogues: bool) -> list[dict[str, list[dict[str, str]]]]:
    """{"prompt": [...], "chosen": [...], "rejected": [...]} in the conversational form TRL takes."""
    mix, draw = LengthMix(5), np.random.default_rng(6)

    def words(median: float, sigma: float, low: int, high: int) -> str:
        return mix.text(int(np.clip(math.exp(draw.normal(math.log(median), sigma)), low, high)))

    found = []
    for _ in range(count):
        prompt = words(64, 1.1, 7, 600) if dialogues else mix.prompt()
        chosen, rejected = (words(24, 0.95, 4, 200) if dialogues else mix.completion() for _ in range(2))
        answers = {side: [{"role": "assistant", "content": text}] for side, text in (("chosen", chosen), ("rejected", rejected))}
        found.append({"prompt": [{"role": "user", "content": prompt}], **answers})
    return found


def encode(tokenizer: Any, prompt: list[Any], completion: list[Any], index: int) -> Any:
    """Prompt and completion ids with the completion supervised, as TRL makes them."""
    from posttrain.records import TokenSequence

    start = len(tokenizer.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"])
    whole = tokenizer.apply_chat_template(prompt + completion)["input_ids"]
    return TokenSequence(np.array(whole, np.int32), np.arange(len(whole)) >= start, index)


class TrlSide:
    """One of TRL's trainers driven step by step: its collator, its loss, its autocast. ``precomputed`` needs no reference model."""

    def __init__(self, options: argparse.Namespace, kind: tuple[Any, Any], examples: list[Any], *, precomputed: bool) -> None:
        from datasets import Dataset

        trainer, config = kind
        model, reference = build_model(options.size), None if precomputed else build_model(options.size)
        model.config._name_or_path = model.name_or_path = tempfile.mkdtemp()
        settings = config(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=options.pairs,
            report_to=[],
            bf16=options.dtype == "bfloat16",
            gradient_checkpointing=False,
            use_cpu=True,
            disable_tqdm=True,
            learning_rate=0.0,
            beta=BETA,
            max_length=2048,
            precompute_ref_log_probs=precomputed,
        )
        self.trainer = trainer(
            model=model, ref_model=reference, args=settings, train_dataset=Dataset.from_list(examples), processing_class=build_tokenizer()
        )
        self.model = self.trainer.accelerator.prepare(self.trainer.model)
        self.rows = [self.trainer.train_dataset[i] for i in range(len(self.trainer.train_dataset))]
        self.parameters = [p for p in self.trainer.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=0.0, weight_decay=0.0, fused=True)
        self.batch, self.stored = options.pairs, {}

    def inputs(self, step: int) -> Any:
        return self.trainer.data_collator(self.rows[step * self.batch : (step + 1) * self.batch])

    def store_reference(self, steps: int, names: tuple[str, str]) -> None:
        """Reference log-probabilities of every step, by TRL's own pass, for the steps that read them."""
        for step in range(steps):
            found = self.trainer.compute_ref_log_probs(self.trainer.ref_model, self.inputs(step))
            self.stored[step] = dict(zip(names, found, strict=True))

    def backward(self, step: int, *, stored: bool = False) -> float:
        inputs = self.inputs(step)
        inputs.update(self.stored[step] if stored else {})
        self.trainer.precompute_ref_logps = stored or self.trainer.ref_model is None
        with self.trainer.compute_loss_context_manager():
            loss = self.trainer.compute_loss(self.model, inputs)
        loss.backward()
        return float(loss)

    def step(self, step: int, *, stored: bool = False) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.backward(step, stored=stored)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        return loss


class OurSide:
    """Our policy, the preference stage's loss and the training loop's step functions."""

    def __init__(self, options: argparse.Namespace, loss: Callable[..., Any], *, before_step: Callable[..., None] | None = None) -> None:
        from posttrain.models import ModelSettings, Policy, keep_freed_memory
        from posttrain.training import TrainingSettings

        keep_freed_memory()
        self.policy = Policy(build_model(options.size), ModelSettings(path="-"), compute_dtype=getattr(torch, options.dtype))
        if not options.eager:
            self.policy.compile()
        self.loss, self.before_step = loss, before_step
        self.settings = TrainingSettings(learning_rate=1e-30, sequences_per_step=options.pairs)
        self.masters = list(self.policy.trainable().values())
        self.optimizer = torch.optim.AdamW(self.masters, lr=0.0, weight_decay=0.0, fused=True)

    def microbatches(self, items: list[Any], *, share: bool) -> list[Any]:
        """Cut as the training loop cuts them."""
        from posttrain.training.items import Microbatch
        from posttrain.training.plan import split_microbatches

        limit, least = self.settings.max_tokens_per_microbatch, self.settings.min_shared_tokens
        cut = split_microbatches(items, max_tokens=limit, share=share, min_shared=least)
        return [Microbatch(number, tuple(items[i] for i in part), torch.device("cpu")) for number, part in enumerate(cut)]

    def reference_sums(self, sequences: list[Any]) -> torch.Tensor:
        """What the reference pass computes for these sequences."""
        from posttrain.models import completion_logprobs

        rows = completion_logprobs(self.policy, sequences, max_tokens=self.settings.max_tokens_per_microbatch)
        return torch.stack([row.sum() for row in rows])

    def backward(self, items: list[Any], *, share: bool = True) -> Any:
        from posttrain.training import World
        from posttrain.training.step import accumulate

        for master in self.masters:
            master.grad = None
        microbatches = self.microbatches(items, share=share)
        if self.before_step:
            self.before_step(self.policy, microbatches, World())
        return accumulate(self.policy, microbatches, self.loss, self.settings.model_copy(update={"share_prefixes": share}))

    def step(self, items: list[Any], *, share: bool = True) -> float:
        from posttrain.training.step import scale_gradients

        sums = self.backward(items, share=share)
        scale_gradients([m.grad for m in self.masters if m.grad is not None], sums.count, 1.0)
        self.optimizer.step()
        self.policy.refresh()
        return sums.loss / sums.count


def pair_items(pairs: list[Any]) -> list[Any]:
    """Our items of two sequences each, their reference log-probabilities still to be set."""
    from posttrain.training import TrainingItem

    tokenizer, found = build_tokenizer(), []
    for index, pair in enumerate(pairs):
        chosen, rejected = (encode(tokenizer, pair["prompt"], pair[side], index) for side in ("chosen", "rejected"))
        lengths = {f"{name}_lengths": torch.tensor([row.num_supervised]) for name, row in (("chosen", chosen), ("rejected", rejected))}
        found.append(TrainingItem((chosen, rejected), {"probabilities": torch.ones(1), "margins": torch.zeros(1), **lengths}))
    return found


def with_reference(ours: OurSide, items: list[Any]) -> list[Any]:
    from posttrain.stages.preference_loss import add_reference

    return add_reference(items, ours.reference_sums([row for item in items for row in item.sequences]))


def our_dpo(options: argparse.Namespace) -> OurSide:
    from posttrain.objectives import objective_settings
    from posttrain.stages.preference_loss import PreferenceLoss

    return OurSide(options, PreferenceLoss(objective_settings("dpo")(beta=BETA)))


def gradient_difference(ours: OurSide, sums: Any, trl: TrlSide) -> float:
    """Relative L2 difference of the mean-loss gradients."""
    theirs = {name.removeprefix("module."): p.grad for name, p in trl.trainer.model.named_parameters() if p.grad is not None}
    difference = total = 0.0
    for name, master in ours.policy.trainable().items():
        difference += float((master.grad.double() / sums.count - theirs[name].double()).square().sum())
        total += float(theirs[name].double().square().sum())
    return (difference / total) ** 0.5


def shift(items: list[Any], amount: float) -> list[Any]:
    """Reference values moved apart, so that margins and gradients are not those of the first step, where all pairs weigh the same."""
    return [replace(item, tensors={**item.tensors, "ref_rejected_logps": item.tensors["ref_rejected_logps"] + amount}) for item in items]


def compare_gradients(options: argparse.Namespace, kind: tuple[Any, Any], pairs: list[Any]) -> None:
    ours, trl = our_dpo(options), TrlSide(options, kind, pairs[: options.pairs], precomputed=False)
    items = with_reference(ours, pair_items(pairs[: options.pairs]))
    trl.store_reference(1, ("ref_chosen_logps", "ref_rejected_logps"))
    moved = torch.linspace(-20, 20, options.pairs)
    trl.stored[0]["ref_rejected_logps"] = trl.stored[0]["ref_rejected_logps"] + moved
    items = [shift([item], float(amount))[0] for item, amount in zip(items, moved, strict=True)]
    loss = trl.backward(0, stored=True)
    sums = ours.backward(items)
    difference = gradient_difference(ours, sums, trl)
    report("dpo_gradients", size=options.size, dtype=options.dtype, relative=difference, loss=[loss, sums.loss / sums.count])


def dialogues(options: argparse.Namespace, pairs: list[Any]) -> None:
    """Our shared path against our unshared one."""
    ours = our_dpo(options)
    items = with_reference(ours, pair_items(pairs))
    batches = [items[step * options.pairs : (step + 1) * options.pairs] for step in range(options.steps)]
    gradients = {}
    for name in ("shared", "unshared"):
        ours.backward(batches[0], share=name == "shared")
        gradients[name] = torch.cat([m.grad.flatten() for m in ours.masters if m.grad is not None])
    difference = float((gradients["shared"] - gradients["unshared"]).norm() / gradients["unshared"].norm())
    sides = {
        "unshared": lambda step: ours.step(batches[step], share=False),
        "shared": lambda step: ours.step(batches[step], share=True),
    }
    seconds = interleave(sides, options.steps, rounds=options.rounds)
    packed = sum(len(item.sequences[0]) + item.sequences[1].num_supervised for item in items)
    logical = sum(item.num_tokens for item in items)
    report(
        "dpo_dialogues",
        **vars(options),
        steps_s=seconds,
        summary=summary(seconds, "unshared", steps=options.steps),
        tokens_per_computed=round(logical / packed, 2),
        gradient_difference=difference,
    )


def memory(options: argparse.Namespace, kind: tuple[Any, Any], pairs: list[Any]) -> None:
    if options.memory == "trl":
        side = TrlSide(options, kind, pairs, precomputed=options.precomputed)
        for step in range(options.steps):
            side.step(step, stored=False)
    else:
        ours = our_dpo(options)
        items = with_reference(ours, pair_items(pairs))
        for step in range(options.steps):
            ours.step(items[step * options.pairs : (step + 1) * options.pairs])
    report(
        "dpo_memory", side=options.memory, peak_gb=round(peak_memory_gb(), 2), **{k: v for k, v in vars(options).items() if k != "memory"}
    )


def speed(options: argparse.Namespace, kind: tuple[Any, Any], pairs: list[Any]) -> None:
    trl, ours = TrlSide(options, kind, pairs, precomputed=False), our_dpo(options)
    trl.store_reference(options.steps, ("ref_chosen_logps", "ref_rejected_logps"))
    bare = pair_items(pairs)
    items = with_reference(ours, bare)
    batches = [(bare[i : i + options.pairs], items[i : i + options.pairs]) for i in range(0, len(items), options.pairs)]
    sides = {
        "trl": trl.step,
        "trl_precomputed": lambda step: trl.step(step, stored=True),
        "ours": lambda step: ours.step(batches[step][1]),
        "ours_first_epoch": lambda step: ours.step(with_reference(ours, batches[step][0])),
    }
    seconds = interleave(sides, options.steps, rounds=options.rounds, peer_keeps_memory=options.peer_keeps_memory)
    against = {peer: summary(seconds, peer, steps=options.steps) for peer in ("trl", "trl_precomputed")}
    report("dpo_speed", **vars(options), steps_s=seconds, against=against)


def main() -> None:
    options = arguments(__doc__ or "")
    pairs = draw_pairs(options.pairs * options.steps, dialogues=options.dialogues)
    if options.dialogues:
        dialogues(options, pairs)
        return
    if options.memory == "ours":
        memory(options, (None, None), pairs)
        return
    from trl import DPOConfig, DPOTrainer

    kind = (DPOTrainer, DPOConfig)
    if options.gradients:
        compare_gradients(options, kind, pairs)
    elif options.memory:
        memory(options, kind, pairs)
    else:
        speed(options, kind, pairs)


if __name__ == "__main__":
    main()
