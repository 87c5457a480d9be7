"""Keys and values of the rows in a batch, and the attention function that stock Hugging Face models run on them.

One forward pass is one packed row: first the new prompt tokens of rows that just joined (segments), then exactly one token of every
row in the batch. There is no padding and no concatenation: each layer writes its keys and values into slots allocated once, and a
segment whose beginning another slot already holds copies those keys and values instead of computing them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
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


class SlotCache:
    """Preallocated keys and values, ``[slot, kv_head, position, head_dim]`` a layer.

    Memory is allocated at a layer's first write and is zero until written (on CPU: untouched pages cost nothing).
    """

    def __init__(self, num_slots: int, capacity: int) -> None:
        self.num_slots, self.capacity = num_slots, capacity
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def layer(self, index: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values of one layer; shape and dtype follow the first ``key``, ``value`` [1, kv_head, token, dim]."""
        if index not in self._layers:
            self._layers[index] = (self._zeros(key), self._zeros(value))
        return self._layers[index]

    def _zeros(self, like: Tensor) -> Tensor:
        return like.new_zeros(self.num_slots, like.shape[1], self.capacity, like.shape[3])

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` positions of slot ``source`` to slot ``target``, in every layer."""
        for layer in self._layers.values():
            for tensor in layer:
                tensor[target, :, :length] = tensor[source, :, :length]


@dataclass(frozen=True, slots=True)
class Segment:
    """Prompt tokens ``start..end`` (positions) of the row in ``slot``; positions before ``shared`` are copied from slot ``donor`` first."""

    slot: int
    start: int
    end: int
    donor: int = -1
    shared: int = 0


@dataclass(slots=True)
class StepPlan:
    """What one forward pass computes: ``segments``, then the token at ``positions[i]`` of slot i for every row.

    Segments run in order within a layer, so one may take its beginning from a slot filled by an earlier one.
    """

    cache: SlotCache
    segments: Sequence[Segment]
    positions: Int[Tensor, " row"]
    length: int
    layers_run: set[int] = field(default_factory=set)
    _masks: dict[tuple[int, ...], Tensor] = field(default_factory=dict)

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, *, scale: float, window: int, softcap: float
    ) -> Float[Tensor, "1 token heads head_dim"]:
        """Write this pass's keys and values of ``layer`` and attend. query: [1, heads, token, dim], key, value: [1, kv_heads, ...]."""
        self.layers_run.add(layer)
        keys, values = self.cache.layer(layer, key, value)
        kv_heads, groups = key.shape[1], query.shape[1] // key.shape[1]
        out = query.new_empty(query.shape[2], kv_heads, groups, value.shape[3])
        offset = 0
        for number, segment in enumerate(self.segments):
            rows = slice(offset, offset + segment.end - segment.start)
            offset = rows.stop
            slot_keys, slot_values = keys[segment.slot], values[segment.slot]
            if segment.shared and segment.donor != segment.slot:
                slot_keys[:, : segment.shared] = keys[segment.donor, :, : segment.shared]
                slot_values[:, : segment.shared] = values[segment.donor, :, : segment.shared]
            slot_keys[:, segment.start : segment.end] = key[0, :, rows]
            slot_values[:, segment.start : segment.end] = value[0, :, rows]
            if rows.start == rows.stop:
                continue
            asked = query[:, :, rows].reshape(1, kv_heads, -1, query.shape[3])
            mask = self._segment_mask(number, groups, window, query)
            seen = _attention(asked, slot_keys[None, :, : segment.end], slot_values[None, :, : segment.end], mask, scale, softcap)
            out[rows] = seen.view(kv_heads, groups, -1, value.shape[3]).permute(2, 0, 1, 3)
        if (num_rows := self.positions.shape[0]) > 0:
            rows_at = torch.arange(num_rows, device=query.device)
            keys[rows_at, :, self.positions] = key[0, :, offset:].transpose(0, 1)
            values[rows_at, :, self.positions] = value[0, :, offset:].transpose(0, 1)
            asked = query[0, :, offset:].transpose(0, 1).reshape(num_rows, kv_heads, groups, query.shape[3])
            mask = self._row_mask(window, query)
            out[offset:] = _attention(asked, keys[:num_rows, :, : self.length], values[:num_rows, :, : self.length], mask, scale, softcap)
        return out.view(1, out.shape[0], kv_heads * groups, value.shape[3])

    def _row_mask(self, window: int, like: Tensor) -> Float[Tensor, "row 1 1 length"]:
        key = (-1, window)
        if key not in self._masks:
            at = torch.arange(self.length, device=like.device)
            self._masks[key] = _additive(_visible(self.positions[:, None], at, window), like)[:, None, None]
        return self._masks[key]

    def _segment_mask(self, number: int, groups: int, window: int, like: Tensor) -> Float[Tensor, "query length"]:
        key = (number, window, groups)
        if key not in self._masks:
            segment = self.segments[number]
            at = torch.arange(segment.end, device=like.device)
            self._masks[key] = _additive(_visible(at[segment.start :, None], at, window), like).repeat(groups, 1)
        return self._masks[key]


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
