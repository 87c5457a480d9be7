"""Attention over a forest of prefixes, as a registered attention function of stock Hugging Face models.

Every node attends to its ancestors and, causally, to itself: the keys on a path are one contiguous run after concatenation, so a query at
path position i sees key j exactly when ``j <= i`` (and ``i - j < sliding_window`` where the layer has one). Grouped-query attention is
folded into matrix rows, so one batched product a block of query rows does all heads. The T x T matrix never exists: the largest score block
is ``heads x BLOCK x path``. The backward pass computes each block's probabilities again instead of keeping them (Dao et al. 2022,
FlashAttention, section 3.1). Scores are kept in the compute dtype (capped ones in float32), every softmax and its gradient is one fused
operation that works in float32 inside, and gradients of keys and values are summed in float32; all of it in float64 for float64. Where
``native`` has a kernel for the inputs, that computes them, with smaller blocks and scores in float32.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from posttrain.errors import ModelError
from posttrain.models import native
from posttrain.models.head import wide

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
    query, key = query.to(dtype), key.to(dtype)
    return forest_forward(query, key, value, forest_nodes, scale, sliding_window or 0, softcap or 0.0), None


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


class _Probabilities:
    """softmax of capped and masked scores, a block of query rows at a time; the scale is in the queries already."""

    def __init__(self, like: Tensor, window: int, softcap: float) -> None:
        self._window, self._softcap = window, softcap
        self._future = torch.full((BLOCK, BLOCK), -math.inf, dtype=like.dtype, device=like.device).triu_(1)

    def __call__(self, query: Tensor, keys: Tensor, rows: int, before: int, *, with_slope: bool = False) -> tuple[Tensor, Tensor | None]:
        """``p`` [kv_heads, group * rows, keys] of scaled queries whose first row is at path position ``before``; and when asked for, where
        there is a cap, d capped / d score.
        """
        scores = torch.bmm(query, keys.transpose(1, 2))
        slope = None
        if self._softcap:
            scores = scores.to(wide(scores.dtype)).div_(self._softcap).tanh_()
            slope = (1 - scores.square()).to(query.dtype) if with_slope else None
            scores.mul_(self._softcap)
        used = keys.shape[1]
        by_row = scores.view(len(scores), -1, rows, used)
        if rows > 1:
            by_row[..., before:].add_(self._future[:rows, :rows])
        if self._window and used > self._window:
            near = torch.ones(rows, used, dtype=torch.bool, device=scores.device).triu_(before - self._window + 1)
            by_row.masked_fill_(~near, -math.inf)
        return torch.softmax(scores, -1).to(query.dtype), slope


@torch.library.custom_op("posttrain::forest_forward", mutates_args=())
def forest_forward(q: Tensor, k: Tensor, v: Tensor, nodes: Tensor, scale: float, window: int, softcap: float) -> Tensor:
    """Attention output [1, T, heads, d]."""
    _, heads, length, width = q.shape
    kv_heads = k.shape[1]
    if native.has_kernel(q, k, v, scale, softcap):
        return native.forward(q, k, v, nodes, scale, window)
    out = torch.empty(1, length, heads, width, dtype=q.dtype, device=q.device)
    probabilities, scaled = _Probabilities(q, window, softcap), q * scale
    for chain, past, blocks in _blocks(nodes.tolist()):
        keys, values = _along(k[0], chain), _along(v[0], chain)
        for first, last in blocks:
            rows, before = last - first, past + first - chain[-1][0]
            query = scaled[0, :, first:last].reshape(kv_heads, -1, width)
            weights, _ = probabilities(query, keys[:, : before + rows], rows, before)
            mixed = torch.bmm(weights, values[:, : before + rows])
            out[0, first:last] = mixed.view(heads, rows, width).transpose(0, 1)
    return out


@torch.library.custom_op("posttrain::forest_backward", mutates_args=())
def forest_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, nodes: Tensor, scale: float, window: int, softcap: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k, v, laid out [1, T, heads, d] in memory and returned as [1, heads, T, d] views."""
    _, heads, _, width = q.shape
    kv_heads = k.shape[1]
    grad_q = _like_rows(q, q.dtype)
    if native.has_kernel(q, k, v, scale, softcap):
        grads = (grad_q, _like_rows(k, k.dtype), _like_rows(v, v.dtype))
        native.backward(grad, q, k, v, nodes, scale, window, grads)
        return grads
    grad_k, grad_v = _like_rows(k, wide(k.dtype)).zero_(), _like_rows(v, wide(v.dtype)).zero_()
    probabilities, scaled = _Probabilities(q, window, softcap), q * scale
    for chain, past, blocks in _blocks(nodes.tolist()):
        keys, values = _along(k[0], chain), _along(v[0], chain)
        for first, last in blocks:
            rows, before = last - first, past + first - chain[-1][0]
            used = before + rows
            query = scaled[0, :, first:last].reshape(kv_heads, -1, width)
            grad_out = grad[0, first:last].transpose(0, 1).reshape(kv_heads, -1, width)
            weights, slope = probabilities(query, keys[:, :used], rows, before, with_slope=True)
            grad_weights = torch.bmm(grad_out, values[:, :used].transpose(1, 2))
            grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
            if slope is not None:
                grad_scores = grad_scores.mul_(slope)
            grad_q[0, :, first:last] = torch.bmm(grad_scores, keys[:, :used]).view(heads, rows, width)
            _scatter(grad_k[0], torch.bmm(grad_scores.transpose(1, 2), query), chain)
            _scatter(grad_v[0], torch.bmm(weights.transpose(1, 2), grad_out), chain)
    return grad_q.mul_(scale), grad_k.to(k.dtype), grad_v.to(v.dtype)


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


@forest_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, nodes: Tensor, scale: float, window: int, softcap: float) -> Tensor:
    return q.new_empty(1, q.shape[2], q.shape[1], q.shape[3])


@forest_backward.register_fake
def _(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, nodes: Tensor, scale: float, window: int, softcap: float
) -> tuple[Tensor, Tensor, Tensor]:
    return _like_rows(q, q.dtype), _like_rows(k, k.dtype), _like_rows(v, v.dtype)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    q, k, v, nodes, ctx.scale, ctx.window, ctx.softcap = inputs
    ctx.save_for_backward(q, k, v, nodes)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *forest_backward(grad, *ctx.saved_tensors, ctx.scale, ctx.window, ctx.softcap), None, None, None, None


forest_forward.register_autograd(_backward, setup_context=_setup)
