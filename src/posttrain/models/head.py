"""Token log-probabilities from supervised rows only, in tiles: [T, V] logits exist neither forward nor backward.

For a row h, ``z = cap * tanh(scale * W h / cap)`` (no cap in most families), ``log p(t) = z_t - logsumexp(z)`` and
``H = logsumexp(z) - sum_j p_j z_j``. Gradients: ``d log p(t) / dz_j = [j = t] - p_j`` and ``dH / dz_j = -p_j (log p_j + H)``.
Three ways make them:

* ``uniform``: every target has the same coefficient (SFT), so dh and dW are formed in the forward pass, while the tile is at hand, and
  scaled later;
* frozen head (LoRA): dh of each row is formed in the forward pass and scaled by the row's coefficient later, whatever the objective;
* otherwise the backward pass computes each tile a second time.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from posttrain.errors import TrainingError

TILE = 512
"""Rows of one tile: with 49,152 tokens in the vocabulary, 100 MB of float32."""


@dataclass(frozen=True, slots=True)
class HeadShape:
    """What a family does between ``W h`` and its logits: ``cap * tanh(scale * x / cap)``; cap 0 means none."""

    scale: float = 1.0
    cap: float = 0.0


PLAIN = HeadShape()


def token_logprobs(
    hidden: Float[Tensor, "target width"],
    weight: Float[Tensor, "vocabulary width"],
    target_ids: Int[Tensor, " target"],
    *,
    shape: HeadShape = PLAIN,
    uniform: bool = False,
    tile: int = TILE,
) -> Float[Tensor, " target"]:
    """``log p(target)`` of each row, float32 (float64 for float64 input). ``uniform`` promises equal gradients for all targets; checked."""
    return _LogProbs.apply(hidden, weight, target_ids, shape, uniform, tile)  # type: ignore[no-any-return,no-untyped-call]


def token_logprobs_and_entropies(
    hidden: Float[Tensor, "target width"],
    weight: Float[Tensor, "vocabulary width"],
    target_ids: Int[Tensor, " target"],
    *,
    shape: HeadShape = PLAIN,
    tile: int = TILE,
) -> tuple[Float[Tensor, " target"], Float[Tensor, " target"]]:
    """``log p(target)`` and the entropy in nats of each row's distribution, both differentiable."""
    return _LogProbsAndEntropies.apply(hidden, weight, target_ids, shape, tile)  # type: ignore[no-any-return,no-untyped-call]


def wide(dtype: torch.dtype) -> torch.dtype:
    """What sums of ``dtype`` are kept in: float32, or float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class _Tiles:
    """Logits of consecutive rows, written into one reused buffer."""

    def __init__(self, hidden: Tensor, weight: Tensor, shape: HeadShape, tile: int) -> None:
        self.hidden, self.weight, self.shape = hidden, weight, shape
        self.spans = [(first, min(first + tile, len(hidden))) for first in range(0, len(hidden), tile)]
        rows = min(tile, len(hidden))
        self._product = hidden.new_empty(rows, weight.shape[0])

    def logits(self, first: int, last: int) -> Tensor:
        """[rows, vocabulary]; valid until the next call."""
        product = torch.mm(self.hidden[first:last], self.weight.t(), out=self._product[: last - first])
        logits = product.to(wide(product.dtype))
        if self.shape.scale != 1.0:
            logits.mul_(self.shape.scale)
        return logits.div_(self.shape.cap).tanh_().mul_(self.shape.cap) if self.shape.cap else logits

    def slope(self, logits: Tensor) -> Tensor | None:
        """d logits / d (W h) as a factor on each logit, where it is not the constant ``scale``; to be taken before ``logits`` is
        overwritten.
        """
        return 1 - (logits / self.shape.cap).square() if self.shape.cap else None

    def pull_back(self, grad_logits: Tensor, slope: Tensor | None) -> Tensor:
        """From dlogits to d(W h), in the weight's dtype; overwrites its argument."""
        if slope is not None:
            grad_logits.mul_(slope)
        if self.shape.scale != 1.0:
            grad_logits.mul_(self.shape.scale)
        return grad_logits.to(self.weight.dtype)


def _add_outer(total: Tensor | None, grad: Tensor, hidden: Tensor) -> Tensor:
    """``total + grad^T hidden``, gathered in float32 (float64) from the first tile on."""
    part = grad.t() @ hidden if total is None or grad.dtype != total.dtype else None
    if total is None:
        assert part is not None
        return part.to(wide(part.dtype))
    return total.addmm_(grad.t(), hidden) if part is None else total.add_(part)


class _LogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, target_ids: Tensor, shape: HeadShape, uniform: bool, tile: int) -> Tensor:
        grad_hidden_wanted, grad_weight_wanted = ctx.needs_input_grad[:2]
        ctx.early = (uniform or not grad_weight_wanted) and (grad_hidden_wanted or grad_weight_wanted)
        ctx.uniform, ctx.shape, ctx.tile = uniform and grad_weight_wanted, shape, tile
        tiles = _Tiles(hidden, weight, shape, tile)
        logprobs = hidden.new_empty(len(hidden), dtype=wide(hidden.dtype))
        normalizer = torch.empty_like(logprobs)
        grad_hidden = torch.empty_like(hidden) if ctx.early else None
        grad_weight: Tensor | None = None
        for first, last in tiles.spans:
            logits, targets = tiles.logits(first, last), target_ids[first:last, None]
            slope = tiles.slope(logits) if ctx.early else None
            chosen = logits.gather(1, targets)[:, 0]
            normalizer[first:last], total = _exponentiate(logits)
            logprobs[first:last] = chosen - normalizer[first:last]
            if grad_hidden is not None:
                grad = tiles.pull_back(_grad_of_logprobs(logits, total.reciprocal_(), targets, torch.ones_like(total)), slope)
                torch.mm(grad, weight, out=grad_hidden[first:last])
                if grad_weight_wanted:
                    grad_weight = _add_outer(grad_weight, grad, hidden[first:last])
        if ctx.early:
            ctx.formed = (grad_hidden, grad_weight.to(weight.dtype) if grad_weight is not None else None)
        else:
            ctx.save_for_backward(hidden, weight, target_ids, normalizer)
        return logprobs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.early:
            grad_hidden, grad_weight = _scale_formed(ctx, grad)
            return grad_hidden, grad_weight, None, None, None, None
        hidden, weight, target_ids, normalizer = ctx.saved_tensors
        tiles = _Tiles(hidden, weight, ctx.shape, ctx.tile)
        grad_hidden = torch.empty_like(hidden)
        total: Tensor | None = None
        for first, last in tiles.spans:
            logits, targets = tiles.logits(first, last), target_ids[first:last, None]
            slope = tiles.slope(logits)
            probabilities, coefficients = logits.sub_(normalizer[first:last, None]).exp_(), grad[first:last, None]
            grad_logits = tiles.pull_back(_grad_of_logprobs(probabilities, coefficients, targets, coefficients), slope)
            torch.mm(grad_logits, weight, out=grad_hidden[first:last])
            total = _add_outer(total, grad_logits, hidden[first:last])
        return grad_hidden, torch.zeros_like(weight) if total is None else total.to(weight.dtype), None, None, None, None


def _exponentiate(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Turn logits into ``exp(z - largest)`` in place, one exponential each; returns their log-sum-exp [rows] and the sum [rows, 1]."""
    largest = logits.amax(-1, keepdim=True)
    total = logits.sub_(largest).exp_().sum(-1, keepdim=True)
    return (largest + total.log())[:, 0], total


def _grad_of_logprobs(exponentials: Tensor, factor: Tensor, targets: Tensor, coefficients: Tensor) -> Tensor:
    """``coefficient * ([j = t] - p_j)`` in place of the exponentials, where ``exponential * factor`` is ``coefficient * p``."""
    return exponentials.mul_(factor.neg()).scatter_add_(1, targets, coefficients.to(exponentials.dtype))


def _scale_formed(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:
    """Scale the gradients formed in the forward pass. In place: they are handed out once."""
    if ctx.formed is None:
        raise TrainingError(
            "the head's gradient was already taken", hint="call backward once for each logprobs call, or leave uniform=False"
        )
    grad_hidden, grad_weight = ctx.formed
    ctx.formed = None
    if ctx.uniform and grad.numel():
        if not bool((grad == grad[0]).all()):
            raise TrainingError(
                "logprobs(uniform=True) was given a loss whose targets have different coefficients",
                hint="leave uniform=False for weighted or sequence-level objectives",
            )
        grad_weight.mul_(grad[0])
    return grad_hidden.mul_(grad[:, None]), grad_weight


class _LogProbsAndEntropies(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, target_ids: Tensor, shape: HeadShape, tile: int) -> tuple[Tensor, Tensor]:
        tiles = _Tiles(hidden, weight, shape, tile)
        logprobs = hidden.new_empty(len(hidden), dtype=wide(hidden.dtype))
        entropies, normalizer = torch.empty_like(logprobs), torch.empty_like(logprobs)
        for first, last in tiles.spans:
            logits, targets = tiles.logits(first, last), target_ids[first:last, None]
            total = torch.logsumexp(logits, -1)
            normalizer[first:last] = total
            logprobs[first:last] = logits.gather(1, targets)[:, 0] - total
            logs = logits.sub_(total[:, None])
            entropies[first:last] = -(logs.exp() * logs).sum(-1)
        ctx.shape, ctx.tile = shape, tile
        ctx.save_for_backward(hidden, weight, target_ids, normalizer, entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, grad_logprobs: Tensor, grad_entropies: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, target_ids, normalizer, entropies = ctx.saved_tensors
        tiles = _Tiles(hidden, weight, ctx.shape, ctx.tile)
        grad_hidden = torch.empty_like(hidden)
        grad_weight: Tensor | None = None
        for first, last in tiles.spans:
            logits, targets = tiles.logits(first, last), target_ids[first:last, None]
            slope = tiles.slope(logits)
            logs = logits.sub_(normalizer[first:last, None])
            probabilities = logs.exp()
            grad = logs.add_(entropies[first:last, None]).mul_(grad_entropies[first:last, None]).add_(grad_logprobs[first:last, None])
            grad.mul_(probabilities).neg_()
            grad.scatter_add_(1, targets, grad_logprobs[first:last, None])
            product = tiles.pull_back(grad, slope)
            torch.mm(product, weight, out=grad_hidden[first:last])
            if ctx.needs_input_grad[1]:
                grad_weight = _add_outer(grad_weight, product, hidden[first:last])
        if ctx.needs_input_grad[1] and grad_weight is None:
            grad_weight = torch.zeros_like(weight)
        return grad_hidden, grad_weight.to(weight.dtype) if grad_weight is not None else None, None, None, None
