"""The decoding loop: rows join when there is room, every forward pass gives each row one token, finished rows leave at once."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from posttrain.errors import ModelError
from posttrain.generation.cache import ATTENTION_NAME, Segment, SlotCache, StepPlan, register
from posttrain.generation.sampling import UniformStream, choose_tokens, logprobs_of
from posttrain.generation.text import TextStream
from posttrain.records import SamplingSettings

LogitsHook = Callable[[Sequence[int], Tensor], None]
"""Seam for constrained decoding: called with the ids generated so far and the row's logits (float32 [vocab]), which it changes in place."""
MAX_PREFILL_TOKENS = 1024
"""Prompt tokens in one forward pass: bounds the memory of activations."""
MIN_SHARED = 8
"""Fewer tokens in common than this are computed, not copied."""


@dataclass(slots=True)
class Row:
    """One request in the batch. ``tokens``: prompt ids and then the generated ones; ``limit``: how many may be generated."""

    index: int
    tokens: list[int]
    sampling: SamplingSettings
    limit: int
    hook: LogitsHook | None = None
    stream: TextStream | None = None
    num_prompt: int = 0
    logprobs: list[float] = field(default_factory=list)
    started: float = 0.0
    seconds: float = 0.0
    finish_reason: str = ""
    uniforms: UniformStream | None = None

    def __post_init__(self) -> None:
        self.num_prompt = len(self.tokens)
        if self.sampling.temperature > 0:
            self.uniforms = UniformStream(self.sampling.seed)

    @property
    def generated(self) -> list[int]:
        """Ids generated so far, the ending one included."""
        return self.tokens[self.num_prompt :]


class Batch:
    """Rows 0..n-1 occupy slots 0..n-1 of the cache. A row that finishes is replaced by a waiting one, else by the last row."""

    def __init__(self, model: Any, *, num_slots: int, capacity: int, end_ids: Sequence[int]) -> None:
        self.num_slots, self.capacity = num_slots, capacity
        self._model = model
        self._device = next(model.parameters()).device
        self._num_layers = model.config.num_hidden_layers
        self._cache = SlotCache(num_slots, capacity)
        self._end_ids = frozenset(end_ids)
        self._arrivals: list[Segment] = []
        self._rows: list[Row] = []
        self._held: list[NDArray[np.int32]] = [np.empty(0, np.int32)] * num_slots
        """Token ids whose keys and values a slot holds or, for a segment planned but not yet run, will hold."""

    def forget(self) -> None:
        """Drop all rows and what slots hold: nothing computed so far is shared any more."""
        self._rows = []
        self._held = [np.empty(0, np.int32)] * self.num_slots

    @torch.inference_mode()
    def run(self, rows: Sequence[Row], on_done: Callable[[Row], None]) -> None:
        """Generate for all rows; ``on_done`` gets each as it finishes. Rows with a common beginning should be neighbours."""
        waiting = deque(rows)
        try:
            with _slot_attention(self._model):
                while self._refill(waiting) or self._rows:
                    self._advance(self._forward())
                    self._report(on_done)
        except BaseException:
            self.forget()
            raise

    def _refill(self, waiting: deque[Row]) -> bool:
        """Give freed slots to waiting rows and close the gaps that stay; plan what to compute: all but the last token of each prompt."""
        freed = [slot for slot, row in enumerate(self._rows) if row.finish_reason]
        for slot in reversed(freed[len(waiting) :]):
            last = self._rows.pop()
            if slot < len(self._rows):
                self._held[slot] = np.array(last.tokens[:-1], np.int32)
                self._cache.copy(len(self._rows), slot, len(self._held[slot]))
                self._rows[slot] = last
        self._arrivals = [self._place(slot, waiting.popleft()) for slot in freed[: len(waiting)]]
        while waiting and len(self._rows) < self.num_slots:
            self._arrivals.append(self._place(len(self._rows), waiting.popleft()))
        return bool(self._arrivals)

    def _place(self, slot: int, row: Row) -> Segment:
        """Put ``row`` into ``slot``: what some slot already holds of its prompt is shared, the rest will be computed."""
        row.started = time.perf_counter()
        self._rows[slot : slot + 1] = [row]
        prompt = np.array(row.tokens[:-1], np.int32)
        lengths = [_num_common(held, prompt) for held in self._held]
        donor = max(range(len(lengths)), key=lambda i: (lengths[i], i == slot))
        shared = lengths[donor] if lengths[donor] >= MIN_SHARED else 0
        self._held[slot] = prompt
        return Segment(slot, shared, len(prompt), donor, shared)

    def _forward(self) -> Float[Tensor, "row vocab"]:
        """Logits (float32) after the last token of every row; new prompts are computed on the way, at most MAX_PREFILL_TOKENS a pass."""
        *first, last = _passes(self._arrivals)
        for segments in first:
            self._pass(segments, [])
        return self._pass(last, self._rows)

    def _pass(self, segments: Sequence[Segment], rows: Sequence[Row]) -> Tensor:
        ids: list[int] = []
        for segment in segments:
            ids.extend(self._rows[segment.slot].tokens[segment.start : segment.end])
        places = [np.arange(segment.start, segment.end) for segment in segments]
        last = np.array([len(row.tokens) - 1 for row in rows], np.int64)
        ids.extend(row.tokens[-1] for row in rows)
        positions = torch.from_numpy(np.concatenate([*places, last])).to(self._device)
        plan = StepPlan(self._cache, segments, positions[len(ids) - len(rows) :], int(last.max()) + 1 if len(rows) else 0)
        output = self._model(
            input_ids=torch.tensor([ids], device=self._device),
            position_ids=positions[None],
            use_cache=False,
            logits_to_keep=max(len(rows), 1),
            step_plan=plan,
        )
        if len(plan.layers_run) != self._num_layers:
            raise ModelError(
                f"'{self._model.config.model_type}' ran {len(plan.layers_run)} of {self._num_layers} layers through its attention",
                hint="choose a model family whose layers are all softmax attention",
            )
        logits: Tensor = output.logits[0].float()
        return logits

    def _advance(self, logits: Float[Tensor, "row vocab"]) -> None:
        """Choose a token for every row and decide which rows are finished."""
        raw = logits
        if any(row.hook for row in self._rows):
            logits = raw.clone()
            for row, own in zip(self._rows, logits, strict=True):
                if row.hook:
                    row.hook(row.generated, own)
        uniforms = [row.uniforms.draw() if row.uniforms else 0.0 for row in self._rows]
        chosen = choose_tokens(logits, [row.sampling for row in self._rows], uniforms)
        wanted = [i for i, row in enumerate(self._rows) if row.sampling.logprobs]
        if wanted:
            for i, logprob in zip(wanted, logprobs_of(raw[wanted], [chosen[i] for i in wanted]), strict=True):
                self._rows[i].logprobs.append(logprob)
        for row, token in zip(self._rows, chosen, strict=True):
            row.tokens.append(token)
            if token in self._end_ids or (row.stream is not None and row.stream.push(token)):
                row.finish_reason = "stop"
            elif len(row.tokens) - row.num_prompt >= row.limit:
                row.finish_reason = "length"

    def _report(self, on_done: Callable[[Row], None]) -> None:
        now = time.perf_counter()
        for slot, row in enumerate(self._rows):
            if row.finish_reason:
                self._held[slot] = np.array(row.tokens[:-1], np.int32)
                row.seconds = now - row.started
                on_done(row)


def _num_common(held: NDArray[np.int32], prompt: NDArray[np.int32]) -> int:
    """How many tokens two sequences have in common at their beginning."""
    shorter = min(len(held), len(prompt))
    differs = held[:shorter] != prompt[:shorter]
    return int(differs.argmax()) if differs.any() else shorter


def _passes(segments: Sequence[Segment]) -> list[list[Segment]]:
    """Split segments, in order, into forward passes of at most MAX_PREFILL_TOKENS; at least one pass, which may be empty."""
    passes: list[list[Segment]] = [[]]
    room = MAX_PREFILL_TOKENS
    for segment in segments:
        start, shared, donor = segment.start, segment.shared, segment.donor
        while True:
            end = min(segment.end, start + room)
            passes[-1].append(Segment(segment.slot, start, end, donor, shared))
            room -= end - start
            start, shared = end, 0
            if end == segment.end:
                break
            passes.append([])
            room = MAX_PREFILL_TOKENS
    return passes


@contextmanager
def _slot_attention(model: Any) -> Iterator[None]:
    """The model with the generator's attention, and its own again afterwards."""
    register()
    own = model.config._attn_implementation
    model.set_attn_implementation(ATTENTION_NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(own)
