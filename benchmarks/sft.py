"""SFT beside TRL: the same conversations, the same optimiser work (clip, AdamW), taking turns in one process.

    python benchmarks/sft.py --size m135 --dtype float32            # full fine-tuning
    python benchmarks/sft.py --size m135 --lora                     # LoRA on both sides, TRL packed too
    python benchmarks/sft.py --size tiny --dtype float32
    python benchmarks/sft.py --memory ours ; python benchmarks/sft.py --memory trl     # peak RSS, one process each

TRL's settings tried: plain, gradient checkpointing, packed rows (with --packed). The ratio is against the fastest of them.
"""

import argparse
import tempfile
from typing import Any

from common import LengthMix, build_model, build_tokenizer, interleave, peak_memory_gb, report, summary, training_options

import numpy as np  # isort: skip
import torch  # isort: skip

BATCH = 8


def arguments() -> argparse.Namespace:
    parser = training_options(__doc__)
    parser.add_argument("--lora", action="store_true", help="rank 16 on the attention projections, both sides")
    parser.add_argument("--packed", action="store_true", help="also time TRL with packing")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing on both sides")
    return parser.parse_args()


class Trl:
    """TRL's SFTTrainer driven step by step: its collator, its loss, its autocast."""

    def __init__(self, options: argparse.Namespace, examples: list[Any], *, packed: bool = False, checkpointing: bool = False) -> None:
        from datasets import Dataset
        from peft import LoraConfig
        from trl import SFTConfig, SFTTrainer

        peft = (
            LoraConfig(r=16, lora_alpha=32, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], task_type="CAUSAL_LM")
            if options.lora
            else None
        )
        model = build_model(options.size)
        model.config._name_or_path = model.name_or_path = tempfile.mkdtemp()
        config = SFTConfig(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=2 if packed else BATCH,
            report_to=[],
            bf16=options.dtype == "bfloat16",
            gradient_checkpointing=checkpointing,
            use_cpu=True,
            disable_tqdm=True,
            learning_rate=0.0,
            completion_only_loss=True,
            packing=packed,
            max_length=1024,
        )
        self.trainer = SFTTrainer(
            model=model, args=config, train_dataset=Dataset.from_list(examples), processing_class=build_tokenizer(), peft_config=peft
        )
        self.rows = [self.trainer.train_dataset[i] for i in range(len(self.trainer.train_dataset))]
        self.model = self.trainer.accelerator.prepare(self.trainer.model)
        self.parameters = [p for p in self.trainer.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=0.0, weight_decay=0.0, fused=True)
        self.batch = 2 if packed else BATCH

    def backward(self, step: int) -> float:
        start = step * self.batch % max(1, len(self.rows) - self.batch + 1)
        batch = self.trainer.data_collator(self.rows[start : start + self.batch])
        count = (batch["labels"][:, 1:] != -100).sum()
        with self.trainer.compute_loss_context_manager():
            loss = self.trainer.compute_loss(self.model, dict(batch), num_items_in_batch=count)
        loss.backward()
        return float(loss)

    def step(self, step: int) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.backward(step)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        return loss

    def sequences(self, step: int) -> list[Any]:
        """The unpadded rows of a step as ours takes them."""
        from posttrain.records import TokenSequence

        rows = self.rows[step * BATCH : (step + 1) * BATCH]
        return [
            TokenSequence(np.array(row["input_ids"], np.int32), np.array(row["labels"]) != -100, index) for index, row in enumerate(rows)
        ]


class Ours:
    """Our policy and step functions, as the training loop calls them."""

    def __init__(self, options: argparse.Namespace) -> None:
        from posttrain.models import LoraSettings, ModelSettings, Policy, keep_freed_memory
        from posttrain.models.lora import add_adapter
        from posttrain.training import TrainingSettings

        keep_freed_memory()
        model = build_model(options.size)
        settings = ModelSettings(
            path="-", lora=LoraSettings(rank=16) if options.lora else None, gradient_checkpointing=options.checkpointing
        )
        if options.lora:
            if options.dtype == "bfloat16":
                model = model.bfloat16()
            model = add_adapter(model, settings.lora, seed=0)
        self.policy = Policy(model, settings, compute_dtype=getattr(torch, options.dtype))
        if not options.eager:
            self.policy.compile()
        self.settings = TrainingSettings(learning_rate=1e-30, sequences_per_step=BATCH, max_tokens_per_microbatch=100_000)
        self.masters = list(self.policy.trainable().values())
        self.optimizer = torch.optim.AdamW(self.masters, lr=0.0, weight_decay=0.0, fused=True)

    def backward(self, sequences: list[Any]) -> Any:
        from posttrain.objectives import sft_loss
        from posttrain.training.items import Microbatch, as_items
        from posttrain.training.step import accumulate

        microbatch = Microbatch(0, tuple(as_items(sequences)), torch.device("cpu"))
        return accumulate(
            self.policy, [microbatch], lambda policy, forest, _: sft_loss(policy.logprobs(forest, uniform=True)), self.settings
        )

    def step(self, sequences: list[Any]) -> float:
        from posttrain.training.step import scale_gradients

        for master in self.masters:
            master.grad = None
        sums = self.backward(sequences)
        scale_gradients([m.grad for m in self.masters if m.grad is not None], sums.count, 1.0)
        self.optimizer.step()
        self.policy.refresh()
        return sums.loss / sums.count


def compare_gradients(options: argparse.Namespace, trl: Trl) -> None:
    """Relative L2 difference of the mean-loss gradient of one batch."""
    ours = Ours(options)
    sequences = trl.sequences(0)
    if options.lora:  # the same adapters on both sides, B away from zero so that A has a gradient
        values = dict(trl.trainer.model.named_parameters())
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, master in ours.policy.trainable().items():
                values[name].copy_(master.copy_(torch.randn(master.shape, generator=generator) * 0.02))
        ours.policy.refresh()
    loss = trl.backward(0)
    sums = ours.backward(sequences)
    theirs = {name.removeprefix("module."): p.grad for name, p in trl.trainer.model.named_parameters() if p.grad is not None}
    difference = total = 0.0
    for name, master in ours.policy.trainable().items():
        difference += float((master.grad.double() / sums.count - theirs[name].double()).square().sum())
        total += float(theirs[name].double().square().sum())
    report(
        "sft_gradients",
        size=options.size,
        dtype=options.dtype,
        lora=options.lora,
        relative=(difference / total) ** 0.5,
        loss=[loss, sums.loss / sums.count],
    )


def main() -> None:
    options = arguments()
    mix = LengthMix(5)
    examples = [mix.example() for _ in range(options.steps * BATCH)]
    if options.gradients:
        compare_gradients(options, Trl(options, examples))
        return
    if options.memory == "trl":
        side = Trl(options, examples, checkpointing=options.checkpointing)
        for step in range(options.steps):
            side.step(step)
        report("sft_memory", side="trl", peak_gb=round(peak_memory_gb(), 2), **vars(options))
        return
    if options.memory == "ours":
        tokenizer, ours = build_tokenizer(), Ours(options)
        for step in range(options.steps):
            ours.step(tokenize(tokenizer, examples[step * BATCH : (step + 1) * BATCH]))
        report("sft_memory", side="ours", peak_gb=round(peak_memory_gb(), 2), **vars(options))
        return
    trl = Trl(options, examples, checkpointing=options.checkpointing)
    batches = [trl.sequences(step) for step in range(options.steps)]
    sides = {"trl": trl.step}
    tokens = {"trl": [sum(map(len, batch)) for batch in batches]}
    if options.packed:
        more = [mix.example() for _ in range(options.steps * BATCH * 4)]
        packed = Trl(options, more, packed=True)
        sides["trl_packed"] = packed.step
        tokens["trl_packed"] = [
            sum(len(packed.rows[(2 * s + i) % len(packed.rows)]["input_ids"]) for i in range(2)) for s in range(options.steps)
        ]
    ours = Ours(options)
    sides["ours"] = lambda step: ours.step(batches[step])
    tokens["ours"] = tokens["trl"]
    seconds = interleave(sides, options.steps, rounds=options.rounds, peer_keeps_memory=options.peer_keeps_memory)
    rates = {name: max(t / s for t, s in zip(tokens[name] * options.rounds, values, strict=True)) for name, values in seconds.items()}
    report(
        "sft_speed",
        **vars(options),
        steps_s=seconds,
        summary=summary(seconds, "trl", steps=options.steps),
        best_tokens_per_second={name: round(rate) for name, rate in rates.items()},
        ratio_to_fastest_peer_by_tokens=round(rates["ours"] / max(rate for name, rate in rates.items() if name != "ours"), 2),
    )


def tokenize(tokenizer: Any, examples: list[Any]) -> list[Any]:
    """Prompt and completion ids with the completion supervised, as TRL makes them."""
    from posttrain.records import TokenSequence

    found = []
    for example in examples:
        prompt = tokenizer.apply_chat_template(example["prompt"], add_generation_prompt=True)["input_ids"]
        whole = tokenizer.apply_chat_template(example["prompt"] + example["completion"])["input_ids"]
        found.append(TokenSequence(np.array(whole, np.int32), np.arange(len(whole)) >= len(prompt)))
    return found


if __name__ == "__main__":
    main()
