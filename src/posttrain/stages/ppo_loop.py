"""The PPO loop: answer, score, judge whether to go on, update, checkpoint. Killed and started again it ends in the same bits."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from posttrain.chat import ChatContract
from posttrain.errors import InfrastructureError, PosttrainError
from posttrain.models import Policy, freed_memory_kept
from posttrain.models.actor_critic import ActorCritic
from posttrain.objectives import kl_per_token
from posttrain.stages.ppo_controls import check_finite, check_scores, explained_variance, parted, shape_scores, slope
from posttrain.stages.ppo_rollouts import Passes, Prompt, Rollout, Scorer, run_passes, sample, score
from posttrain.stages.ppo_settings import PpoConfig
from posttrain.stages.ppo_update import Updater, build_items
from posttrain.training import BatchPlan
from posttrain.training.checkpoint import RunState, exclusive, load_checkpoint, save_checkpoint
from posttrain.training.signals import stop_on_signals

Entry = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Judges:
    """The reward model trained against and the one only watched."""

    reward: Scorer
    held_out: Scorer | None = None


@dataclass(slots=True)
class PpoRun:
    """Everything a run is made of. ``plan``: which prompts meet in which update."""

    models: ActorCritic
    contract: ChatContract
    judges: Judges
    prompts: Sequence[Prompt]
    plan: BatchPlan
    config: PpoConfig


def run_updates(
    run: PpoRun, run_dir: Path, identity: dict[str, Any], on_update: Callable[[Entry], None]
) -> tuple[list[Entry], Mapping[str, nn.Parameter]]:
    """Train ``run.models`` in place for the updates of the plan, going on from the newest whole checkpoint. Returns the history and the
    weights kept for :func:`restore_best`.

    An update first measures the policy it starts from. The run ends early when that measurement is over the KL budget or the two rewards
    have parted; the weights are then those of the best policy measured before: the one with the highest held-out reward, or without a
    held-out reward model the newest. The last entry says why under ``stopped``. Raises as :func:`posttrain.training.train` does.
    """
    updater = Updater(run.models, run.config, run.plan.num_steps)
    best = {f"best/{name}": nn.Parameter(value.detach().clone()) for name, value in run.models.policy.trainable().items()}
    held = run.models.trainable() | best
    checkpoints, settings = run_dir / "checkpoints", run.config.training
    with exclusive(run_dir), stop_on_signals() as stop, freed_memory_kept(apart=1) as after_update:
        state = load_checkpoint(checkpoints, identity, held, updater.optimizer) or RunState(0, identity, [])
        run.models.refresh()
        history = list(state.history)
        for update in range(state.step, run.plan.num_steps):
            if history and history[-1]["stopped"]:
                break
            try:
                measured = _measure_policy(run, update, history)
            except PosttrainError:  # nothing of this update has touched a weight
                if update > state.step:
                    save_checkpoint(
                        checkpoints, RunState(update, identity, history), held, updater.optimizer, keep=settings.keep_checkpoints
                    )
                raise
            entry = measured.entry
            if entry["stopped"]:
                restore_best(run.models, best)
            else:
                _keep_best(run, entry, history, best)
                entry |= _train(updater, measured, update)
            history.append(entry)
            after_update()
            done = update + 1
            last = done == run.plan.num_steps or bool(entry["stopped"])
            if last or stop.signal or done % settings.checkpoint_every_steps == 0:
                save_checkpoint(checkpoints, RunState(done, identity, history), held, updater.optimizer, keep=settings.keep_checkpoints)
            on_update(entry)
            if stop.signal and not last:
                raise InfrastructureError(
                    f"stopped by {stop.signal} after update {done} of {run.plan.num_steps}; a checkpoint was written to {checkpoints}",
                    hint="run the same command again: it goes on with the next update",
                )
    return history, best


def restore_best(models: ActorCritic, best: Mapping[str, nn.Parameter]) -> None:
    """Put the kept weights back into the policy."""
    with torch.no_grad():
        for name, parameter in models.policy.trainable().items():
            parameter.copy_(best[f"best/{name}"])
    models.refresh()


def move_to_start(run: PpoRun, share: float) -> None:
    """Move the policy ``share`` of the way back to its start weights, which are read again from their folder."""
    policy = run.models.policy
    start = Policy.load(policy.settings, seed=run.config.training.seed, device=policy.device).trainable()
    with torch.no_grad():
        for name, parameter in policy.trainable().items():
            parameter.lerp_(start[name], share)
    run.models.refresh()


@dataclass(frozen=True, slots=True)
class _Measured:
    """What an update knows before it trains; ``scores`` are shaped."""

    entry: Entry
    rollouts: list[Rollout]
    passes: Passes
    scores: Tensor


def _measure_policy(run: PpoRun, update: int, history: list[Entry]) -> _Measured:
    """Answer and score, and decide whether to go on; no weight changes. ``update`` counts from 0."""
    config, began = run.config, time.perf_counter()
    coefficient = history[-1]["next_kl_coef"] if history else config.kl.coefficient
    rollouts = sample(run.models, run.contract, [run.prompts[i] for i in run.plan.steps[update]], config, update=update + 1)
    answered = time.perf_counter()
    measured, rewards = measure(run.judges, rollouts, update=update + 1)
    raw = rewards["reward"]
    passes = run_passes(run.models, rollouts, config.training)
    scores = shape_scores(torch.tensor(raw), passes.lengths, torch.tensor([rollout.ended for rollout in rollouts]), config.reward)
    check_scores(raw, scores, update + 1)
    entry: Entry = {
        "update": update + 1,
        **measured,
        **distances(passes, config),
        "shaped_reward": float(scores.mean()),
        "kl_coef": coefficient,
    }
    entry["next_kl_coef"] = config.kl.after(coefficient, entry["kl"])
    entry["stopped"] = _why_stop([*history, entry], run)
    entry |= {"generation_seconds": answered - began, "scoring_seconds": time.perf_counter() - answered, "update_seconds": 0.0}
    return _Measured(entry, rollouts, passes, scores)


def _train(updater: Updater, measured: _Measured, update: int) -> Entry:
    """The training half of an update, and what it adds to the entry."""
    began, passes = time.perf_counter(), measured.passes
    coefficient = measured.entry["kl_coef"]
    items, returns = build_items(measured.rollouts, passes, measured.scores, updater.config, kl_coef=coefficient)
    found: Entry = {"explained_variance": explained_variance(passes.values, returns), **updater.run(items, update)}
    return found | {"update_seconds": time.perf_counter() - began}


def measure(judges: Judges, rollouts: Sequence[Rollout], *, update: int) -> tuple[Entry, dict[str, list[float]]]:
    """Rewards, lengths and endings of a set of answers; and each answer's ``reward`` and, where it is watched, ``held_out_reward``.

    Raises TrainingError, naming ``update`` (from 1; 0 the evaluation) and the answer, for a reward that is not finite.
    """
    rewards = {"reward": score(judges.reward, rollouts)}
    if judges.held_out is not None:
        rewards["held_out_reward"] = score(judges.held_out, rollouts)
    check_finite(rewards, update)
    lengths = [rollout.length for rollout in rollouts]
    entry: Entry = {
        "answers": len(rollouts),
        "length": statistics.fmean(lengths),
        "eos_share": statistics.fmean(rollout.ended for rollout in rollouts),
        "reward_per_token": slope(rewards["reward"], lengths),
    }
    for name, values in rewards.items():
        entry |= {name: statistics.fmean(values), f"{name}_sd": statistics.stdev(values)}
    return entry, rewards


def distances(passes: Passes, config: PpoConfig) -> dict[str, float]:
    """Distance to the reference, nats per answer, and entropy, nats per token. ``kl`` is by the configured estimator, ``kl_k3`` by k3."""
    answers = len(passes.lengths)
    totals = {
        name: float(kl_per_token(passes.logprobs, passes.ref_logprobs, estimator=estimator).sum()) / answers
        for name, estimator in (("kl", config.kl_estimator), ("kl_k3", "k3"))
    }
    return totals | {"entropy": float(passes.entropies.mean())}


def _why_stop(history: list[Entry], run: PpoRun) -> str:
    now, config = history[-1], run.config
    if config.is_over_budget(now["kl"]):
        return f"KL budget: {now['kl']:.2f} nats per answer, {config.kl_budget:g} allowed"
    if run.judges.held_out is not None:
        reason = parted(history, config.divergence, run.plan.num_steps)
        return f"rewards parted: {reason}" if reason else ""
    return ""


def _keep_best(run: PpoRun, entry: Entry, history: list[Entry], best: dict[str, nn.Parameter]) -> None:
    """Remember the policy just measured if a stopped run should hand it back."""
    if run.judges.held_out is not None and any(past["held_out_reward"] >= entry["held_out_reward"] for past in history):
        return
    with torch.no_grad():
        for name, parameter in run.models.policy.trainable().items():
            best[f"best/{name}"].copy_(parameter)
