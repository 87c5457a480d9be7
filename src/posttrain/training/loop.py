"""The one training loop. Objective, data and model are handed in; it knows none of them."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from posttrain.errors import InfrastructureError
from posttrain.models import ForestModel, freed_memory_kept
from posttrain.records import TokenSequence
from posttrain.training.checkpoint import RunState, exclusive, load_checkpoint, save_checkpoint
from posttrain.training.distributed import World, open_world
from posttrain.training.identity import run_identity
from posttrain.training.items import Microbatch, TrainingItem, as_items, data_hash
from posttrain.training.plan import BatchPlan, build_plan, split_microbatches
from posttrain.training.report import Evaluation, StepReport, TrainResult
from posttrain.training.schedule import learning_rate
from posttrain.training.settings import TrainingSettings
from posttrain.training.signals import stop_on_signals
from posttrain.training.step import LossFunction, StepLoss, accumulate, blame_gradient, check_sums, merge, scale_gradients, seed_step


def train(
    model: ForestModel,
    data: Sequence[TokenSequence] | Sequence[TrainingItem],
    loss_fn: LossFunction | StepLoss,
    settings: TrainingSettings,
    *,
    run_dir: Path,
    contract_record: Mapping[str, Any],
    on_step: Callable[[StepReport], None] | None = None,
    evaluations: Sequence[Evaluation] = (),
) -> TrainResult:
    """Train ``model`` in place for the steps of the plan, going on from the newest whole checkpoint in ``run_dir``.

    The sums of all micro-batches are divided once by the step's count, so the result does not depend on how the step was cut. A loss or
    gradient that is not finite, or a step that counts nothing, raises TrainingError before the update. SIGINT or SIGTERM ends the run
    after the current step with a checkpoint and InfrastructureError. A checkpoint of another contract raises ContractError, of other
    data, model or settings ConfigError.
    """
    items, loss = as_items(data), loss_fn if isinstance(loss_fn, StepLoss) else StepLoss(loss_fn)
    plan = build_plan(items, settings)
    model.check_token_ids(max(int(sequence.input_ids.max()) for item in items for sequence in item.sequences))
    identity = run_identity(model, settings, plan, data_hash(items), contract_record)
    identity["settings"] |= loss.settings
    optimizer = build_optimizer(model, settings)
    checkpoints = run_dir / "checkpoints"
    with (
        open_world() as world,
        exclusive(run_dir) if world.is_main else nullcontext(),
        stop_on_signals() as stop,
        freed_memory_kept() as after_step,
    ):
        world.wait()
        state = load_checkpoint(checkpoints, identity, model.trainable(), optimizer) or RunState(0, identity, [])
        model.refresh()
        run = _Run(model, items, plan, loss, settings, optimizer, world)
        history, began = list(state.history), time.monotonic()
        for step in range(state.step, plan.num_steps):
            report = _step(run, step)
            after_step()
            done, last = report.step, report.step == plan.num_steps
            evaluated = _evaluate(model, [e for e in evaluations if last or done % e.every_steps == 0])
            eta = (time.monotonic() - began) / (done - state.step) * (plan.num_steps - done)
            report = replace(report, evaluations=evaluated, eta_seconds=eta)
            history.append(report.history())
            stop_signal = next(filter(None, world.gather(stop.signal)), "")
            if last or stop_signal or done % settings.checkpoint_every_steps == 0:
                if world.is_main:
                    now = RunState(done, identity, history)
                    save_checkpoint(checkpoints, now, model.trainable(), optimizer, keep=settings.keep_checkpoints)
                world.wait()
            if on_step and world.is_main:
                on_step(report)
            if stop_signal and not last:
                raise InfrastructureError(
                    f"stopped by {stop_signal} after step {done} of {plan.num_steps}; a checkpoint was written to {checkpoints}",
                    hint="run the same command again: it goes on with the next step",
                )
    return TrainResult(plan.num_steps, state.step, history, time.monotonic() - began)


@dataclass(frozen=True, slots=True)
class _Run:
    model: ForestModel
    items: list[TrainingItem]
    plan: BatchPlan
    loss: StepLoss
    settings: TrainingSettings
    optimizer: torch.optim.Optimizer
    world: World


def _step(run: _Run, step: int) -> StepReport:
    """Step ``step`` (0-based): accumulate, sum over processes, check, divide and clip, update."""
    started, settings, model = time.monotonic(), run.settings, run.model
    seed_step(settings.seed, step, run.world.rank)
    model.model.train()
    microbatches = _microbatches(run, step)
    if run.loss.before_step:
        run.loss.before_step(model, microbatches, run.world)
    sums = merge(run.world, accumulate(model, microbatches, run.loss.fn, settings))
    check_sums(sums, step + 1)
    run.world.sum_gradients(model.trainable().values())
    gradients = [parameter.grad for parameter in model.trainable().values() if parameter.grad is not None]
    grad_norm = scale_gradients(gradients, sums.count, settings.max_grad_norm)
    if not math.isfinite(grad_norm):
        raise blame_gradient(model, microbatches, run.loss.fn, settings, step + 1)
    rate = learning_rate(step, run.plan.num_steps, settings)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    model.refresh()
    seconds = time.monotonic() - started
    return StepReport(
        step=step + 1,
        num_steps=run.plan.num_steps,
        epoch=sum(map(len, run.plan.steps[: step + 1])) / len(run.items),
        loss=sums.loss / sums.count,
        count=sums.count,
        grad_norm=grad_norm,
        learning_rate=rate,
        packed_tokens=sums.packed_tokens,
        logical_tokens=sums.logical_tokens,
        metrics={name: value / sums.count for name, value in sums.metrics.items()},
        seconds=seconds,
        tokens_per_second=sums.logical_tokens / seconds,
    )


def _microbatches(run: _Run, step: int) -> list[Microbatch]:
    """This process's share of the step's micro-batches: every ``size``-th."""
    items = [run.items[position] for position in run.plan.steps[step]]
    batches = split_microbatches(
        items,
        max_tokens=run.settings.max_tokens_per_microbatch,
        share=run.settings.share_prefixes,
        min_shared=run.settings.min_shared_tokens,
        at_least=run.world.size,
    )
    device = torch.device(run.model.device)
    every = [Microbatch(number, tuple(items[i] for i in batch), device) for number, batch in enumerate(batches)]
    return every[run.world.rank :: run.world.size]


def _evaluate(model: ForestModel, due: Sequence[Evaluation]) -> dict[str, float]:
    return {f"{evaluation.name}/{key}": value for evaluation in due for key, value in evaluation.run(model).items()}


def build_optimizer(model: ForestModel, settings: TrainingSettings) -> torch.optim.Optimizer:
    """AdamW (fused) over the fp32 masters; weight decay on matrices only (Loshchilov and Hutter 2019, algorithm 2)."""
    parameters = list(model.trainable().values())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=settings.learning_rate, betas=settings.betas, fused=True)
