"""What a PPO run gained: reference and result answer the same prompts from the same seeds, and the difference carries its interval."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from posttrain.config.files import write_text
from posttrain.metrics import paired_difference
from posttrain.stages.ppo_loop import Entry, PpoRun, distances, measure, move_to_start, restore_best
from posttrain.stages.ppo_rollouts import EVALUATION, Prompt, Rollout, run_passes, sample

TIMES = ("generation_seconds", "scoring_seconds", "update_seconds")
STEPS_BACK = ((0.5, 50), (0.5, 25), (1.0, 0))
"""For a policy over the KL budget: the share of its way back to the start it goes each time, and the percentage left of its change."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """``measured``: means over the answers; ``rewards``: one number an answer, by name of the reward."""

    measured: Entry
    rollouts: list[Rollout]
    rewards: dict[str, list[float]]


def evaluate(run: PpoRun, prompts: Sequence[Prompt], *, reference: bool) -> Evaluation:
    """One answer a prompt by the reference or by the policy as it is now; the policy's distance to the reference is measured on its own."""
    rollouts = sample(run.models, run.contract, prompts, run.config, update=EVALUATION, reference=reference)
    measured, rewards = measure(run.judges, rollouts, update=EVALUATION)
    if not reference:
        measured |= distances(run_passes(run.models, rollouts, run.config.training), run.config)
    return Evaluation(measured, rollouts, rewards)


def measure_result(
    run: PpoRun, prompts: Sequence[Prompt], history: Sequence[Entry], best: Mapping[str, nn.Parameter]
) -> tuple[Evaluation, Evaluation, float, str]:
    """Reference and result on the evaluation prompts, the last policy's KL, and why the run stopped early (or an empty string).

    No update has measured the last policy, nor any policy on these prompts. When the last one is over the KL budget here, the result is the
    best one measured before; when this one is over it too, it is moved back towards the start weights until it is within (linear
    interpolation, as in Rame et al. 2024, arXiv:2406.16768). ``run``'s policy is the result afterwards.
    """
    config, stopped, note = run.config, str(history[-1]["stopped"]), ""
    after = evaluate(run, prompts, reference=False)
    last_kl = float(history[-1]["kl"] if stopped else after.measured["kl"])
    if config.is_over_budget(after.measured["kl"]) and not stopped:
        stopped = f"KL budget: the last policy measures {last_kl:.2f} nats per answer, {config.kl_budget:g} allowed"
        restore_best(run.models, best)
        after = evaluate(run, prompts, reference=False)
    best_kl = after.measured["kl"]
    for share, left in STEPS_BACK:
        if not config.is_over_budget(after.measured["kl"]):
            break
        move_to_start(run, share)
        after = evaluate(run, prompts, reference=False)
        note = f"; the best policy measures {best_kl:.2f} on the evaluation prompts: the result is the start plus {left} % of its change"
    return evaluate(run, prompts, reference=True), after, last_kl, stopped + note


def summarize(before: Evaluation, after: Evaluation, history: Sequence[Entry]) -> dict[str, float]:
    """The run's numbers: rewards before and after, gains with 95 % intervals paired by prompt, distance, lengths, and where time went."""
    numbers = {"updates": float(sum("policy_loss" in entry for entry in history)), "kl": after.measured["kl"]}
    for name, values in after.rewards.items():
        gain = paired_difference(values, before.rewards[name])
        numbers |= {f"{name}_before": before.measured[name], f"{name}_after": after.measured[name]}
        numbers |= {f"{name}_gain": float(gain.value), f"{name}_gain_low": float(gain.low), f"{name}_gain_high": float(gain.high)}
    for name in ("length", "eos_share", "reward_per_token"):
        numbers |= {f"{name}_before": before.measured[name], f"{name}_after": after.measured[name]}
    seconds = {name: sum(entry[name] for entry in history) for name in TIMES}
    total = sum(seconds.values())
    return numbers | seconds | {"generation_share": seconds[TIMES[0]] / total if total else 0.0}


def write_answers(path: Path, before: Evaluation, after: Evaluation) -> None:
    """Both answers to every evaluation prompt, one JSON object a line."""
    lines = []
    for position, (old, new) in enumerate(zip(before.rollouts, after.rollouts, strict=True)):
        row: dict[str, Any] = {"row": old.prompt.row, "prompt": [{"role": m.role, "content": m.content} for m in old.prompt.messages]}
        for side, rollout, evaluation in (("before", old, before), ("after", new, after)):
            rewards = {name: values[position] for name, values in evaluation.rewards.items()}
            row[side] = {"text": rollout.text, "length": rollout.length, "ended": rollout.ended, **rewards}
        lines.append(json.dumps(row, ensure_ascii=False))
    write_text(path, "\n".join(lines) + "\n")
