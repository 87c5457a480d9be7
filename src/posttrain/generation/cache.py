"""Keys and values of the rows in a batch, and the attention function that stock Hugging Face models run on them.

One forward pass is one packed row: first segments (prompts and forced tokens), then exactly one token of every row that is asked for
its next. There is no padding and no concatenation: each layer writes its keys and values into memory allocated once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from posttrain.errors import ModelError

ATTENTION_NAME = "posttrain_slots"


def register() -> None:
    """Make ``model.set_attn_implementation(ATTENTION_NAME)`` possible. No mask function is registered, so models build no mask."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION_NAME, slot_attention)


class CacheTooLarge(MemoryError):
    """The memory for keys and values is not there."""


class KeyValues:
    """Preallocated keys and values, ``[kv_head, position, head_dim]`` a layer, for ``num_positions`` positions of all requests together.

    Memory is allocated at a layer's first write; on a CPU it comes from the system itself, not from malloc: positions never written cost
    nothing, and what was written goes back at the end, also while a training loop has malloc keep what is freed.
    """

    def __init__(self, num_positions: int) -> None:
        self.num_positions = num_positions
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def layer(self, index: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values of one layer; shape and dtype follow the first ``key``, ``value`` [1, kv_head, token, dim]."""
        if index not in self._layers:
            self._layers[index] = (self._zeros(key), self._zeros(value))
        return self._layers[index]

    def _zeros(self, like: Tensor) -> Tensor:
        shape = (like.shape[1], self.num_positions, like.shape[3])
        try:
            if like.device.type != "cpu":
                return like.new_zeros(shape)
            memory = mmap(-1, math.prod(shape) * like.element_size(), flags=MAP_PRIVATE | MAP_ANONYMOUS)
        except (OSError, MemoryError, torch.OutOfMemoryError) as error:
            raise CacheTooLarge(str(error)) from None
        return torch.frombuffer(memory, dtype=like.dtype).view(shape)

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy ``length`` positions from ``source`` on to ``target`` on, in every layer; the two may overlap."""
        overlap = abs(source - target) < length
        for layer in self._layers.values():
            for tensor in layer:
                content = tensor[:, source : source + length]
                tensor[:, target : target + length] = content.clone() if overlap else content


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens ``start..end`` of one request whose positions begin at ``base`` of the cache."""

    base: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class RowRun:
    """``number`` rows of the pass whose positions begin at ``base``, ``base + stride``, ...; the longest of them has ``length`` tokens.

    The first ``shared`` of them are those of its family.
    """

    number: int
    base: int
    stride: int
    length: int
    shared: int = 0


@dataclass(frozen=True, slots=True)
class Family:
    """``number`` rows of the pass, in ``runs``, that have their first ``shared`` tokens in common; they are read at ``base``."""

    number: int
    base: int
    shared: int
    runs: Sequence[RowRun]


@dataclass(slots=True)
class StepPlan:
    """What one forward pass computes: ``segments`` one after the other, then the last token of every row, in ``families``.

    ``places`` (int64 [token]): where in the cache each token's keys and values go. ``positions`` (int64 [row]): each row's last position.
    """

    cache: KeyValues
    segments: Sequence[Segment]
    families: Sequence[Family]
    places: Int[Tensor, " token"]
    positions: Int[Tensor, " row"]
    layers_run: set[int] = field(default_factory=set)
    _masks: dict[tuple[int, ...], Tensor] = field(default_factory=dict)

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, *, scale: float, window: int, softcap: float
    ) -> Float[Tensor, "1 token heads head_dim"]:
        """Write this pass's keys and values of ``layer`` and attend. query: [1, heads, token, dim], key, value: [1, kv_heads, ...]."""
        self.layers_run.add(layer)
        keys, values = self.cache.layer(layer, key, value)
        keys.index_copy_(1, self.places, key[0])
        values.index_copy_(1, self.places, value[0])
        kv_heads, groups = key.shape[1], query.shape[1] // key.shape[1]
        out = query.new_empty(query.shape[2], kv_heads, groups, value.shape[3])
        offset = 0
        for number, segment in enumerate(self.segments):
            rows = slice(offset, offset + segment.end - segment.start)
            offset = rows.stop
            asked = query[:, :, rows].reshape(1, kv_heads, -1, query.shape[3])
            held = slice(segment.base, segment.base + segment.end)
            mask = self._segment_mask(number, groups, window, query)
            seen = _attention(asked, keys[None, :, held], values[None, :, held], mask, scale, softcap)
            out[rows] = seen.view(kv_heads, groups, -1, value.shape[3]).permute(2, 0, 1, 3)
        asked = query[0, :, offset:].view(kv_heads, groups, -1, query.shape[3]).permute(2, 0, 1, 3)
        may_share = not (window or softcap) and query.device.type == "cpu" and query.shape[3] == value.shape[3]
        first = 0
        for family in self.families:
            if family.shared and may_share:
                rows = slice(first, first + family.number)
                out[offset:][rows] = self._attend_family(family, first, asked[rows], keys, values, scale)
                first = rows.stop
                continue
            for run in family.runs:
                rows = slice(first, first + run.number)
                mask = self._row_mask(run, first, 0, window, query)
                out[offset:][rows] = _attention(asked[rows], _strided(keys, run, 0), _strided(values, run, 0), mask, scale, softcap)
                first = rows.stop
        return out.view(1, out.shape[0], kv_heads * groups, value.shape[3])

    def _attend_family(
        self, family: Family, first: int, query: Float[Tensor, "row kv_head group dim"], keys: Tensor, values: Tensor, scale: float
    ) -> Float[Tensor, "row kv_head group dim"]:
        """Attend to the common beginning once for all rows and to each row's own tokens; softmax puts both together by their sums."""
        rows, kv_heads, groups, dim = query.shape
        held = slice(family.base, family.base + family.shared)
        together = query.transpose(0, 1).reshape(1, kv_heads, rows * groups, dim)
        common, common_sum = _flash(together, keys[None, :, held], values[None, :, held], scale=scale)
        common = common.view(kv_heads, rows, groups, dim).transpose(0, 1)
        common_sum = common_sum.view(kv_heads, rows, groups).transpose(0, 1)
        owns, sums = [], []
        at = 0
        for run in family.runs:
            mask = self._row_mask(run, first + at, run.shared, 0, query)
            some = query[at : at + run.number]
            own, own_sum = _flash(some, _strided(keys, run, run.shared), _strided(values, run, run.shared), attn_mask=mask, scale=scale)
            owns.append(own)
            sums.append(own_sum)
            at += run.number
        own = torch.cat(owns) if len(owns) > 1 else owns[0]
        share = torch.sigmoid(common_sum - (torch.cat(sums) if len(sums) > 1 else sums[0]))[..., None].to(own.dtype)
        return torch.lerp(own, common, share)

    def _row_mask(self, run: RowRun, first: int, start: int, window: int, like: Tensor) -> Float[Tensor, "row 1 1 length"]:
        key = (-1, first, start, window)
        if key not in self._masks:
            at = torch.arange(start, run.length, device=like.device)
            seen = _visible(self.positions[first : first + run.number, None], at, window)
            self._masks[key] = _additive(seen, like)[:, None, None]
        return self._masks[key]

    def _segment_mask(self, number: int, groups: int, window: int, like: Tensor) -> Float[Tensor, "query length"]:
        key = (number, window, groups)
        if key not in self._masks:
            segment = self.segments[number]
            at = torch.arange(segment.end, device=like.device)
            self._masks[key] = _additive(_visible(at[segment.start :, None], at, window), like).repeat(groups, 1)
        return self._masks[key]


def _flash(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Attention and, a query, the logarithm of the sum its softmax was divided by."""
    out, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, **options)
    return out, sums


def _strided(tensor: Tensor, run: RowRun, start: int) -> Float[Tensor, "row kv_head length head_dim"]:
    """The positions of a run's rows from ``start`` on, without copying."""
    heads, total, dim = tensor.shape
    shape = (run.number, heads, run.length - start, dim)
    return tensor.as_strided(shape, (run.stride * dim, total * dim, dim, 1), (run.base + start) * dim)


def _visible(query_at: Tensor, key_at: Tensor, window: int) -> Bool[Tensor, "query key"]:
    """A query sees keys at its own position and before, the last ``window`` of them where the layer has a window."""
    seen = key_at <= query_at
    return seen & (key_at > query_at - window) if window else seen


def _additive(seen: Tensor, like: Tensor) -> Tensor:
    return torch.zeros(seen.shape, dtype=like.dtype, device=like.device).masked_fill_(~seen, float("-inf"))


def _attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float, softcap: float) -> Tensor:
    """Softmax attention with an additive mask; ``softcap``: scores become ``cap * tanh(score / cap)`` (Gemma 2)."""
    if not softcap:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    scores = torch.tanh(query @ key.transpose(-1, -2) * (scale / softcap)) * softcap + mask
    return torch.softmax(scores.float(), -1).to(value.dtype) @ value


def slot_attention(
    module: nn.Module,
    query: Float[Tensor, "1 heads token head_dim"],
    key: Float[Tensor, "1 kv_heads token head_dim"],
    value: Float[Tensor, "1 kv_heads token head_dim"],
    attention_mask: None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    step_plan: StepPlan | None = None,
    **others: Any,
) -> tuple[Float[Tensor, "1 token heads head_dim"], None]:
    """The function transformers calls in every attention layer; the plan arrives as ``step_plan`` through the model's keyword arguments.

    Raises ModelError for what it does not compute exactly: attention sinks, a prepared mask, bidirectional attention.
    """
    if step_plan is None or attention_mask is not None or query.shape[0] != 1:
        raise ModelError("slot attention was called outside the generator", hint="load the model again to use it by itself")
    if others.get("s_aux") is not None:
        raise ModelError("attention sinks (s_aux) are not supported by the generator", hint="choose a model family without sinks")
    if not getattr(module, "is_causal", True):
        raise ModelError("bidirectional attention is not supported by the generator", hint="choose a causal language model")
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    dtype = value.dtype
    layer: Any = module.layer_idx
    out = step_plan.attend(layer, query.to(dtype), key.to(dtype), value, scale=scale, window=sliding_window or 0, softcap=softcap or 0.0)
    return out, None
