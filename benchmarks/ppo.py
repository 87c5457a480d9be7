"""One PPO update: 16 prompts of the length mix, answers of 64 tokens, a reward model of the policy's size; where the time goes.

    python benchmarks/ppo.py --size m135              # LoRA, one base for policy, reference and value
    python benchmarks/ppo.py --size m135 --full
    python benchmarks/ppo.py --size tiny --copies     # also: generating from a merged copy whose weights are laid out for decoding

The split is of the second update (the first warms up) with one pass over the answers, which makes generation's share as large as it gets.
"""

import argparse
import copy
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from common import LengthMix, build_model, build_tokenizer, peak_memory_gb, report

import torch  # isort: skip

BAR = 0.6
"""Largest share of the step that generation may take."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["tiny", "m135"], default="m135")
    parser.add_argument("--full", action="store_true", help="train every weight: reference and value are models of their own")
    parser.add_argument("--rollouts", type=int, default=16)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=1, help="passes over the answers")
    parser.add_argument("--updates", type=int, default=2)
    parser.add_argument("--copies", action="store_true", help="compare with generating from a packed copy, refresh counted")
    return parser.parse_args()


def build(options: argparse.Namespace, folder: Path) -> tuple[Any, Path]:
    """Settings, and the folders of a random start model and of a reward model on it."""
    from posttrain.chat import ChatContract
    from posttrain.config import parse
    from posttrain.models import ModelSettings, ScalarModel
    from posttrain.stages import PpoConfig

    build_model(options.size).save_pretrained(folder / "start")
    build_tokenizer().save_pretrained(folder / "start")
    contract = ChatContract.load(folder / "start")
    ScalarModel.load(ModelSettings(path=str(folder / "start"), dtype="float32"), seed=1).save(folder / "reward", contract)
    mix = LengthMix(3)
    prompts = [mix.example()["prompt"] for _ in range(options.rollouts * options.updates)]
    (folder / "prompts.jsonl").write_text("\n".join(json.dumps({"prompt": prompt}) for prompt in prompts) + "\n")
    settings = {
        "data": str(folder / "prompts.jsonl"),
        "reward_model": str(folder / "reward"),
        "max_new_tokens": options.new,
        "generation_batch_size": options.rollouts,
        "epochs_per_update": options.epochs,
        "dtype": "float32",
        "training": {"max_steps": options.updates, "sequences_per_step": options.rollouts, "checkpoint_every_steps": 1000},
    }
    return parse(PpoConfig, settings | ({} if options.full else {"lora": {"rank": 16}}), where="benchmark"), folder / "start"


def main() -> None:
    from posttrain.chat import ChatContract
    from posttrain.models import ModelSettings
    from posttrain.models.actor_critic import ActorCritic
    from posttrain.rewards import RewardModel
    from posttrain.stages.ppo_loop import Judges, PpoRun, run_updates
    from posttrain.stages.ppo_rollouts import load_prompts
    from posttrain.training import TrainingItem, build_plan

    options = arguments()
    with tempfile.TemporaryDirectory() as place:
        config, start = build(options, Path(place))
        contract = ChatContract.load(start)
        prompts, _ = load_prompts(config.data, contract, config, context=2048)
        models = ActorCritic.load(ModelSettings(path=str(start), dtype="float32", lora=config.lora), seed=17)
        plan = build_plan([TrainingItem((prompt.as_sequence(),)) for prompt in prompts], config.training)
        run = PpoRun(models, contract, Judges(RewardModel.load(config.reward_model, dtype="float32")), prompts, plan, config)
        identity: dict[str, Any] = {"contract": {}, "settings": {}, "model": {}, "data": {}}
        history, _ = run_updates(run, Path(place) / "run", identity, lambda entry: print(f"  update {entry['update']}", flush=True))
        last = history[-1]
        seconds = {name: round(last[f"{name}_seconds"], 2) for name in ("generation", "scoring", "update")}
        share = seconds["generation"] / sum(seconds.values())
        print(f"{seconds}: generation {share:.0%} (bar: at most {BAR:.0%}), {last['length']:.0f} tokens an answer", flush=True)
        report(
            "ppo",
            size=options.size,
            method="full" if options.full else "lora",
            rollouts=options.rollouts,
            answer_tokens=round(last["length"], 1),
            prompt_tokens=round(sum(len(prompt.ids) for prompt in prompts) / len(prompts), 1),
            epochs=options.epochs,
            optimizer_steps=last["optimizer_steps"],
            seconds=seconds,
            generation_share=round(share, 3),
            within_bar=share <= BAR,
            peak_gb=round(peak_memory_gb(), 2),
        )
        if options.copies:
            compare_copies(run)


def compare_copies(run: Any) -> None:
    """Generation from the live weights beside generation from a merged, packed copy and the time its refresh takes."""
    from posttrain.generation.packing import PackedLinear, pack_linears
    from posttrain.models.actor_critic import activate
    from posttrain.stages.ppo_rollouts import sample

    prompts = [run.prompts[position] for position in run.plan.steps[0]]
    model = run.models.policy.model
    stock = model.get_base_model()
    begin = time.perf_counter()
    sample(run.models, run.contract, prompts, run.config, update=1)
    live = time.perf_counter() - begin
    activate(model, "default")
    begin = time.perf_counter()
    model.delete_adapter("value")
    packed = copy.deepcopy(model).merge_and_unload()
    packed.set_attn_implementation("sdpa")
    pack_linears(packed.eval(), join=False)
    first = time.perf_counter() - begin
    begin = time.perf_counter()
    modules = dict(packed.named_modules())
    for name, layer in stock.named_modules():
        if hasattr(layer, "lora_A") and isinstance(modules[name], PackedLinear):
            merged = layer.get_base_layer().weight + layer.get_delta_weight("default")
            modules[name]._packed = torch.ops.mkldnn._reorder_linear_weight(merged.detach(), 16)
    refresh = time.perf_counter() - begin
    begin = time.perf_counter()
    sample(_Copy(packed), run.contract, prompts, run.config, update=1)
    decoding = time.perf_counter() - begin
    report(
        "ppo-copies",
        live_s=round(live, 2),
        packed_s=round(decoding, 2),
        first_copy_s=round(first, 2),
        refresh_s=round(refresh, 2),
        copy_gb=round(sum(parameter.numel() for parameter in stock.parameters()) * 4 / 2**30, 2),
    )


class _Copy:
    """A generator's model where the live one would be."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def sampling(self, *, reference: bool = False) -> Any:
        from contextlib import nullcontext

        return nullcontext(self._model)


if __name__ == "__main__":
    main()
