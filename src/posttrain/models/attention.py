"""Attention over a forest of prefixes, as a registered attention function of stock Hugging Face models.

Every node attends to its ancestors and, causally, to itself: the keys on a path are one contiguous run after concatenation, so a query
at path
position i sees key j exactly when ``j <= i`` (and ``i - j < sliding_window`` where the layer has one). Grouped-query attention is folded
into
matrix rows, so one batched product a block of query rows does all heads. The T x T matrix never exists: the largest score block is
``heads x BLOCK x path``. The backward pass recomputes the probabilities from the saved log-sum-exp (Dao et al. 2022, FlashAttention,
section 3.1).
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from posttrain.errors import ModelError

ATTENTION_NAME = "posttrain_forest"
BLOCK = 256
"""Query rows in one score block: bounds memory and skips most of the future half of a causal square."""


def register() -> None:
    """Make ``model.set_attn_implementation(ATTENTION_NAME)`` possible. No mask function is registered, so models build no mask."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION_NAME, forest_attention)


def forest_attention(
    module: nn.Module,
    query: Float[Tensor, "1 heads token head_dim"],
    key: Float[Tensor, "1 kv_heads token head_dim"],
    value: Float[Tensor, "1 kv_heads token head_dim"],
    attention_mask: None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    forest_nodes: Int[Tensor, "node 4"] | None = None,
    **others: Any,
) -> tuple[Float[Tensor, "1 token heads head_dim"], None]:
    """The function transformers calls in every attention layer; structure arrives as ``forest_nodes`` through the model's keyword
    arguments.

    Raises ModelError for what it does not compute exactly: attention dropout, attention sinks, a prepared mask, several rows.
    """
    if forest_nodes is None or attention_mask is not None or query.shape[0] != 1:
        raise ModelError(
            "forest attention was called outside the engine", hint="load the model with load_for_inference to generate from it"
        )
    if dropout > 0.0:
        raise ModelError(f"attention dropout {dropout} is not supported", hint='set "attention_dropout": 0.0 in the model\'s config.json')
    if others.get("s_aux") is not None:
        raise ModelError("attention sinks (s_aux) are not supported by forest attention", hint="choose a model family without sinks")
    if not getattr(module, "is_causal", True):
        raise ModelError("bidirectional attention is not supported by forest attention", hint="choose a causal language model")
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    dtype = value.dtype
    out, _ = forest_forward(query.to(dtype), key.to(dtype), value, forest_nodes, scale, sliding_window or 0, softcap or 0.0)
    return out, None


def _blocks(nodes: list[list[int]]) -> Iterator[tuple[list[tuple[int, int]], int, list[tuple[int, int]]]]:
    """For every node: its path as spans (root first, itself last), how many keys precede it, and its query blocks."""
    chains: list[list[tuple[int, int]]] = []
    for start, end, parent, _ in nodes:
        chain = [*(chains[parent] if parent >= 0 else []), (start, end)]
        chains.append(chain)
        past = sum(last - first for first, last in chain[:-1])
        yield chain, past, [(first, min(first + BLOCK, end)) for first in range(start, end, BLOCK)]


def _along(tensor: Tensor, chain: list[tuple[int, int]]) -> Tensor:
    """Rows of ``tensor`` [kv_heads, T, d] on a path, in order."""
    if len(chain) == 1:
        return tensor[:, chain[0][0] : chain[0][1]]
    return torch.cat([tensor[:, first:last] for first, last in chain], 1)


def _mask_scores(scores: Tensor, past: int, window: int) -> None:
    """Set ``scores`` [kv_heads, group, query, key] to -inf where a key is in the future or out of the window; query 0 is at path
    position ``past``.
    """
    queries, keys = scores.shape[-2:]
    if queries > 1:
        future = torch.full((queries, queries), -math.inf, dtype=scores.dtype, device=scores.device).triu_(1)
        scores[..., past:].add_(future)
    if window and keys > window:
        near = torch.ones(queries, keys, dtype=torch.bool, device=scores.device).triu_(past - window + 1)
        scores.masked_fill_(~near, -math.inf)


def _scores(query: Tensor, keys: Tensor, scale: float, softcap: float) -> Tensor:
    """Scaled, capped scores [kv_heads, group * rows, keys] in float32 (float64 for float64 input)."""
    scores = torch.bmm(query, keys.transpose(1, 2))
    scores = scores.float() if scores.dtype in (torch.bfloat16, torch.float16) else scores
    scores.mul_(scale)
    return scores.div_(softcap).tanh_().mul_(softcap) if softcap else scores


@torch.library.custom_op("posttrain::forest_forward", mutates_args=())
def forest_forward(q: Tensor, k: Tensor, v: Tensor, nodes: Tensor, scale: float, window: int, softcap: float) -> tuple[Tensor, Tensor]:
    """Attention output [1, T, heads, d] and log-sum-exp of the scores [heads, T] (float32, or float64 for float64 input)."""
    _, heads, length, width = q.shape
    kv_heads = k.shape[1]
    out = torch.empty(1, length, heads, width, dtype=q.dtype, device=q.device)
    lse = _lse_like(q)
    for chain, past, blocks in _blocks(nodes.tolist()):
        keys, values = _along(k[0], chain), _along(v[0], chain)
        for first, last in blocks:
            before = past + first - chain[-1][0]
            used = before + last - first
            query = q[0, :, first:last].reshape(kv_heads, -1, width)
            scores = _scores(query, keys[:, :used], scale, softcap)
            _mask_scores(scores.view(kv_heads, -1, last - first, used), before, window)
            largest = scores.amax(-1, keepdim=True)
            total = scores.sub_(largest).exp_().sum(-1, keepdim=True)
            mixed = torch.bmm(scores.to(v.dtype), values[:, :used]).div_(total)
            out[0, first:last] = mixed.view(heads, last - first, width).transpose(0, 1)
            lse[:, first:last] = (largest + total.log_()).view(heads, last - first)
    return out, lse


@torch.library.custom_op("posttrain::forest_backward", mutates_args=())
def forest_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, nodes: Tensor, scale: float, window: int, softcap: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k, v, laid out [1, T, heads, d] in memory and returned as [1, heads, T, d] views."""
    _, heads, _, width = q.shape
    kv_heads = k.shape[1]
    grad_q = _like_rows(q, q.dtype)
    grad_k, grad_v = _like_rows(k, lse.dtype).zero_(), _like_rows(v, lse.dtype).zero_()
    delta = (grad * out).sum(-1, dtype=lse.dtype)[0].t()  # [heads, T]: sum_j P_ij dP_ij
    for chain, past, blocks in _blocks(nodes.tolist()):
        keys, values = _along(k[0], chain), _along(v[0], chain)
        for first, last in blocks:
            rows = last - first
            before = past + first - chain[-1][0]
            used = before + rows
            query = q[0, :, first:last].reshape(kv_heads, -1, width)
            grad_out = grad[0, first:last].transpose(0, 1).reshape(kv_heads, -1, width)
            scores = _scores(query, keys[:, :used], scale, softcap)
            slope = 1 - (scores / softcap).square() if softcap else None
            _mask_scores(scores.view(kv_heads, -1, rows, used), before, window)
            weights = scores.sub_(lse[:, first:last].reshape(kv_heads, -1, 1)).exp_()
            grad_scores = torch.bmm(grad_out, values[:, :used].transpose(1, 2)).to(lse.dtype)
            grad_scores.sub_(delta[:, first:last].reshape(kv_heads, -1, 1)).mul_(weights).mul_(scale)
            if slope is not None:
                grad_scores.mul_(slope)
            weights, grad_scores = weights.to(q.dtype), grad_scores.to(q.dtype)
            grad_q[0, :, first:last] = torch.bmm(grad_scores, keys[:, :used]).view(heads, rows, width)
            _scatter(grad_k[0], torch.bmm(grad_scores.transpose(1, 2), query), chain)
            _scatter(grad_v[0], torch.bmm(weights.transpose(1, 2), grad_out), chain)
    return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype)


def _scatter(total: Tensor, part: Tensor, chain: list[tuple[int, int]]) -> None:
    """Add ``part`` [kv_heads, keys, d] to the rows of ``total`` its path covers; a block may stop short of the path's end."""
    begin = 0
    for first, last in chain:
        count = min(last - first, part.shape[1] - begin)
        total[:, first : first + count] += part[:, begin : begin + count]
        begin += count


def _like_rows(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    _, heads, length, width = tensor.shape
    return torch.empty(1, length, heads, width, dtype=dtype, device=tensor.device).transpose(1, 2)


def _lse_like(q: Tensor) -> Tensor:
    return torch.empty(q.shape[1], q.shape[2], dtype=torch.float64 if q.dtype == torch.float64 else torch.float32, device=q.device)


@forest_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, nodes: Tensor, scale: float, window: int, softcap: float) -> tuple[Tensor, Tensor]:
    return q.new_empty(1, q.shape[2], q.shape[1], q.shape[3]), _lse_like(q)


@forest_backward.register_fake
def _(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, nodes: Tensor, scale: float, window: int, softcap: float
) -> tuple[Tensor, Tensor, Tensor]:
    return _like_rows(q, q.dtype), _like_rows(k, k.dtype), _like_rows(v, v.dtype)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, nodes, ctx.scale, ctx.window, ctx.softcap = inputs
    ctx.save_for_backward(q, k, v, *output, nodes)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 7
    q, k, v, out, lse, nodes = ctx.saved_tensors
    return *forest_backward(grad, q, k, v, out, lse, nodes, ctx.scale, ctx.window, ctx.softcap), None, None, None, None


forest_forward.register_autograd(_backward, setup_context=_setup)
