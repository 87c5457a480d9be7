"""One optimiser step: sums over micro-batches, one check, one division, one update."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from posttrain.errors import TrainingError
from posttrain.models import Forest, ForestModel
from posttrain.objectives import LossOutput
from posttrain.training.distributed import World
from posttrain.training.items import Microbatch
from posttrain.training.settings import TrainingSettings

LossFunction = Callable[[Any, Forest, Microbatch], LossOutput]
"""From the model handed to ``train``, the packed row and its items to a loss sum, usually ``policy.logprobs`` and then an objective."""

BeforeStep = Callable[[Any, Sequence[Microbatch], World], None]
"""Called in every process before a step's first forward pass, with its own micro-batches: what a loss needs of the whole step."""


@dataclass(frozen=True, slots=True)
class StepLoss:
    """A loss function with what belongs to it.

    ``settings``: its hyperparameters as JSON types; a checkpoint made under others is refused.
    """

    fn: LossFunction
    before_step: BeforeStep | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class StepSums:
    """What the micro-batches of a step add up to; ``fault`` names the first one that is not finite."""

    loss: float = 0.0
    count: int = 0
    packed_tokens: int = 0
    logical_tokens: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    fault: str = ""
    stop: str = ""

    def add(self, other: "StepSums") -> "StepSums":
        """The sums of both; the first fault and stop request win."""
        names = dict.fromkeys((*self.metrics, *other.metrics))
        return StepSums(
            loss=self.loss + other.loss,
            count=self.count + other.count,
            packed_tokens=self.packed_tokens + other.packed_tokens,
            logical_tokens=self.logical_tokens + other.logical_tokens,
            metrics={name: self.metrics.get(name, 0.0) + other.metrics.get(name, 0.0) for name in names},
            fault=self.fault or other.fault,
            stop=self.stop or other.stop,
        )


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch, numpy and random for one step, so that what was drawn before it does not matter."""
    value = int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0])
    torch.manual_seed(value)
    np.random.seed(value)
    random.seed(value)


def accumulate(model: ForestModel, microbatches: Sequence[Microbatch], loss_fn: LossFunction, settings: TrainingSettings) -> StepSums:
    """Forward and backward of every micro-batch; gradients of the summed loss end up on ``model.trainable()``.

    Stops at the first loss that is not finite and says so in ``fault``; nothing has been updated then.
    """
    total = StepSums()
    for microbatch in microbatches:
        forest = microbatch.build_forest(share=settings.share_prefixes, min_shared=settings.min_shared_tokens)
        out = loss_fn(model, forest, microbatch)
        loss = float(out.loss_sum.detach())
        if not math.isfinite(loss):
            total.fault = f"the loss of micro-batch {microbatch.number} is {loss} ({_rows(microbatch)})"
            return total
        if out.count:
            out.loss_sum.backward()  # type: ignore[no-untyped-call]
            model.collect_gradients()
        total = total.add(
            StepSums(
                loss, out.count, int(forest.input_ids.numel()), forest.num_logical_tokens, {k: float(v) for k, v in out.metrics.items()}
            )
        )
    return total


def scale_gradients(gradients: list[Tensor], count: int, max_norm: float) -> float:
    """Turn gradients of a sum over ``count`` terms into those of the mean, clipped to ``max_norm``: one multiplication, in place.

    Returns the L2 norm before clipping. When it is not finite, the gradients are left alone.
    """
    norm = float(torch.nn.utils.get_total_norm(gradients)) / count
    if math.isfinite(norm):
        torch._foreach_mul_(gradients, min(1.0, max_norm / norm if norm > 0 else 1.0) / count)
    return norm


def merge(world: World, sums: StepSums) -> StepSums:
    """The sums of all processes, the same in each of them."""
    total = StepSums()
    for part in world.gather(sums):
        total = total.add(part)
    return total


def check_sums(sums: StepSums, step: int) -> None:
    """Raise TrainingError when a loss is not finite or the step counts nothing; ``step`` is 1-based."""
    if sums.fault:
        raise TrainingError(f"step {step} was stopped before its update: {sums.fault}", hint=_HINT)
    if sums.count == 0:
        raise TrainingError(
            f"step {step} was stopped before its update: none of its tokens is supervised",
            hint="look at the rows with `posttrain check`; they train nothing",
        )


def blame_gradient(
    model: ForestModel, microbatches: Sequence[Microbatch], loss_fn: LossFunction, settings: TrainingSettings, step: int
) -> TrainingError:
    """The error for a gradient that is not finite: each micro-batch is run again alone to name the first one that causes it."""
    where = "no single micro-batch of this process does it, their sum does"
    for microbatch in microbatches:
        for parameter in model.trainable().values():
            parameter.grad = None
        accumulate(model, [microbatch], loss_fn, settings)
        gradients = [p.grad for p in model.trainable().values() if p.grad is not None]
        if not math.isfinite(float(torch.nn.utils.get_total_norm(gradients))):
            where = f"micro-batch {microbatch.number} does it ({_rows(microbatch)})"
            break
    return TrainingError(f"step {step} was stopped before its update: the gradient is not finite; {where}", hint=_HINT)


_HINT = "the weights are those of the step before; lower learning_rate or look at these rows with `posttrain check`, then run again"


def _rows(microbatch: Microbatch) -> str:
    rows = microbatch.rows
    more = f" and {len(rows) - 20} more" if len(rows) > 20 else ""
    return f"data rows {', '.join(map(str, rows[:20]))}{more}"
