"""The decoding loop, one forward pass at a time: requests join and leave between any two passes.

A pass computes the prompts of requests that joined, in bounded pieces so that running ones are not held up, tokens that a constraint
forced, and the next token of every row whose tokens before are computed.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from posttrain.errors import InfrastructureError, ModelError
from posttrain.generation.cache import ATTENTION_NAME, CacheTooLarge, Family, KeyValues, RowRun, Segment, StepPlan, register
from posttrain.generation.protocol import RowConstraint
from posttrain.generation.row import Row
from posttrain.generation.sampling import choose_tokens, logprobs_of
from posttrain.generation.slots import Extent, Slots, families, progressions

PREFILL_TOKENS = 1024
"""Prompt tokens in one pass while no row waits for its next token: bounds the memory of activations."""
LEAST_PREFILL_TOKENS = 16
EXTENTS_PER_ROW = 2
"""Running and finished requests whose keys and values are kept, for each row that may run."""


class Batch:
    """Rows that run together and those that wait. :meth:`submit` may be called from any thread, the rest from one at a time."""

    def __init__(self, model: Any, *, num_rows: int, num_positions: int, end_ids: Sequence[int]) -> None:
        self.num_rows = num_rows
        self.interleaved_tokens = PREFILL_TOKENS
        """Prompt tokens in one pass while running rows wait for their next token."""
        self._model = model
        self._device = next(model.parameters()).device
        self._num_layers = model.config.num_hidden_layers
        self._num_positions = num_positions
        self._end_ids = tuple(end_ids)
        self._ends = frozenset(end_ids)
        self._arrived: deque[Row] = deque()
        self._waiting: deque[Row] = deque()
        self._rows: list[Row] = []
        self.num_running = 0
        """Rows that held a place in the last pass."""
        self._families: list[tuple[list[Row], int]] = []
        """The rows of the last pass and how many tokens each group has in common."""
        self._most_rows = num_rows
        self._scale = 1
        """By how much pieces of prompts are smaller since memory ran out."""
        self.forget()

    @property
    def num_waiting(self) -> int:
        """Rows that wait for a place."""
        return len(self._waiting) + len(self._arrived)

    @property
    def num_positions(self) -> int:
        """The longest request (prompt and answer) that can run."""
        return self._slots.num_positions

    def forget(self) -> None:
        """Nothing computed so far is used any more; rows that run start again, with what they generated."""
        self._send_back(0)
        self._slots = Slots(self._num_positions, EXTENTS_PER_ROW * self.num_rows)
        self._cache = KeyValues(self._slots.num_positions)

    def submit(self, row: Row) -> None:
        """Queue a row."""
        self._arrived.append(row)

    @torch.inference_mode()
    def step(self) -> list[Row]:
        """One forward pass, and what goes before and after it. Returns the rows that left."""
        left = self.discard()
        self._resolve()
        self._admit()
        self.num_running = len(self._rows)
        if self._rows:
            try:
                self._run_pass()
            except (RuntimeError, MemoryError) as error:
                if not _is_out_of_memory(error):
                    raise
                self._retreat(error)
        return left + self.discard()

    def abandon(self, error: Exception) -> None:
        """Take out every row after a failure that no single row is to blame for."""
        for row in (*self._rows, *self._waiting, *self._arrived):
            row.error = error
        self.discard()
        self.forget()

    def discard(self) -> list[Row]:
        """Take out rows that are over; what they computed stays in the cache."""
        while self._arrived:
            self._waiting.append(self._arrived.popleft())
        left = [row for row in (*self._rows, *self._waiting) if row.is_over]
        now = time.perf_counter()
        for row in left:
            self._give_up_place(row)
            row.seconds = now - row.started if row.started else 0.0
            if row.finish_reason:
                self._most_rows, self._scale = min(self.num_rows, self._most_rows + 1), max(1, self._scale // 2)
        if left:
            gone = set(left)  # looked at once: another thread may cancel a row at any moment
            self._rows = [row for row in self._rows if row not in gone]
            for row in left:
                if row in self._waiting:
                    self._waiting.remove(row)
                if row.on_end:
                    row.on_end(row)
        return left

    def _give_up_place(self, row: Row) -> None:
        if row.extent is not None:
            self._slots.release(row.extent, row.tokens)
        row.extent = row.donor = None
        self._families = []

    def _resolve(self) -> None:
        """Copy beginnings that another row has now computed, or will not compute any more."""
        for row in self._rows:
            if row.extent is None or row.donor is None:
                continue
            if row.donor.computed >= row.num_shared or not row.donor.is_active:
                self._copy(row, row.extent, row.donor, min(row.num_shared, row.donor.computed))
                row.donor = None

    def _copy(self, row: Row, extent: Extent, donor: Extent, length: int) -> None:
        if donor.start != extent.start:
            self._cache.copy(donor.start, extent.start, length)
        extent.computed = length
        row.num_copied += min(length, row.num_prompt)

    def _admit(self) -> None:
        """Give places to waiting rows, in order; the first that does not fit keeps its turn."""
        while self._waiting and len(self._rows) < self._most_rows:
            row = self._waiting[0]
            tokens = np.array(row.tokens[:-1], np.int32)
            donor, shared = self._slots.match(tokens)
            length = row.num_prompt + row.limit
            if donor is not None and not donor.is_active and shared == len(donor.tokens) and length <= donor.size:
                row.extent = self._slots.take(donor, tokens)
                self._copy(row, donor, donor, shared)
            else:
                if donor is not None:
                    self._slots.touch(donor)
                row.extent = self._slots.place(tokens, length)
                if row.extent is None:
                    return
                if donor is not None and (not donor.is_active or donor.computed >= shared):
                    self._copy(row, row.extent, donor, shared)
                else:
                    row.donor, row.num_shared = donor, shared
            self._waiting.popleft()
            self._rows.append(row)
            row.started = row.started or time.perf_counter()

    def _plan(self) -> tuple[list[tuple[Row, Segment]], list[Row]]:
        """What each row computes in this pass, and the rows that get a token. Forced tokens first, then prompts in the order they came."""
        able = [row for row in self._rows if row.donor is None]
        streaming = [row for row in able if len(row.tokens) > row.num_prompt]
        starting = [row for row in able if len(row.tokens) == row.num_prompt]
        segments: list[tuple[Row, Segment]] = []
        ready = []
        room = max(LEAST_PREFILL_TOKENS, (self.interleaved_tokens if streaming else PREFILL_TOKENS) // self._scale)
        for row in (*streaming, *starting):
            extent = row.extent
            if extent is None:
                continue
            end = min(len(row.tokens) - 1, extent.computed + room)
            if end > extent.computed:
                segments.append((row, Segment(extent.start, extent.computed, end)))
                room -= end - extent.computed
            if end == len(row.tokens) - 1:
                ready.append(row)
        return segments, ready

    def _run_pass(self) -> None:
        segments, ready = self._plan()
        ready = self._arrange(ready)
        logits = self._forward(segments, ready)
        for row, segment in segments:
            self._count(row, segment.end)
        for row in ready:
            self._count(row, len(row.tokens))
        if ready:
            self._advance(ready, logits)

    def _arrange(self, ready: Sequence[Row]) -> list[Row]:
        """Rows with a common beginning next to each other, and there by their places. Found anew when other rows run."""
        if set(ready) != {row for rows, _ in self._families for row in rows}:
            found = families([row.tokens[:-1] for row in ready])
            self._families = [(sorted((ready[index] for index in indices), key=lambda row: row.place), shared) for indices, shared in found]
            alone = sorted((row for rows, shared in self._families if not shared for row in rows), key=lambda row: row.place)
            self._families = [*((rows, shared) for rows, shared in self._families if shared), *([(alone, 0)] if alone else [])]
        return [row for rows, _ in self._families for row in rows]

    @staticmethod
    def _count(row: Row, end: int) -> None:
        if row.extent is not None:
            row.num_computed += max(0, min(end, row.num_prompt) - row.extent.computed)
            row.extent.computed = end

    def _forward(self, segments: Sequence[tuple[Row, Segment]], rows: Sequence[Row]) -> Float[Tensor, "row vocab"]:
        """Logits (float32) after the last token of ``rows``."""
        ids: list[int] = []
        positions: list[Any] = []
        bases: list[int] = []
        for row, segment in segments:
            ids.extend(row.tokens[segment.start : segment.end])
            positions.append(np.arange(segment.start, segment.end))
            bases.extend([segment.base] * (segment.end - segment.start))
        ids.extend(row.tokens[-1] for row in rows)
        positions.append(np.array([len(row.tokens) - 1 for row in rows], np.int64))
        bases.extend(row.place[1] for row in rows)
        at = torch.from_numpy(np.concatenate(positions)).to(self._device)
        plan = StepPlan(
            self._cache,
            [s for _, s in segments],
            [_family(*family) for family in self._families],
            at + torch.tensor(bases, device=self._device),
            at[len(ids) - len(rows) :],
        )
        output = self._model(
            input_ids=torch.tensor([ids], device=self._device),
            position_ids=at[None],
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

    def _advance(self, rows: Sequence[Row], logits: Float[Tensor, "row vocab"]) -> None:
        """Choose a token for every row, and add those that follow from it with certainty."""
        wanted = [i for i, row in enumerate(rows) if row.sampling.logprobs]
        own = logits[wanted]
        for row, allowed in zip(rows, logits, strict=True):
            if row.constraint is not None:
                with _blamed_on(row):
                    row.constraint.mask(allowed)
        uniforms = [row.uniforms.draw() if row.uniforms else 0.0 for row in rows]
        chosen = choose_tokens(logits, [row.sampling for row in rows], uniforms)
        if wanted:
            for i, logprob in zip(wanted, logprobs_of(own, [chosen[i] for i in wanted]), strict=True):
                rows[i].logprobs.append(logprob)
        for row, token in zip(rows, chosen, strict=True):
            row.take(token, self._ends)
            if row.constraint is not None and not row.is_over:
                with _blamed_on(row):
                    self._force(row, row.constraint, token)

    def _force(self, row: Row, constraint: RowConstraint, token: int) -> None:
        """Tell the constraint what was taken; add what must follow."""
        constraint.push(token)
        if row.sampling.logprobs:
            return
        for forced in constraint.forced():
            if not row.is_over:
                row.take(forced, self._ends)
                row.num_forced += 1
        if constraint.is_finished and self._end_ids and not row.is_over:
            row.take(self._end_ids[0], self._ends)
            row.num_forced += 1

    def _retreat(self, error: Exception) -> None:
        """Memory ran out: fewer rows from now on, smaller pieces of prompts, and those that go wait at the front of the queue."""
        if isinstance(error, CacheTooLarge):
            self._num_positions //= 2
            self.forget()
            for row in self._waiting:
                if row.num_prompt + row.limit > self.num_positions:
                    row.error = _out_of_memory(error)
        elif len(self._rows) == 1 and PREFILL_TOKENS // self._scale <= LEAST_PREFILL_TOKENS:
            self._rows[0].error = _out_of_memory(error)
        else:
            self._scale *= 2
            self._most_rows = max(1, len(self._rows) // 2)
            self._send_back(self._most_rows)

    def _send_back(self, most: int) -> None:
        """The last rows that came wait again, at the front of the queue, with what they generated so far."""
        while len(self._rows) > most:
            row = self._rows.pop()
            self._give_up_place(row)
            self._waiting.appendleft(row)


def _family(rows: Sequence[Row], shared: int) -> Family:
    """Rows sorted by place, as few strided views of the cache."""
    runs: list[RowRun] = []
    first = 0
    for number, stride in progressions([row.place for row in rows]):
        some = rows[first : first + number]
        runs.append(RowRun(number, some[0].place[1], stride, max(len(row.tokens) for row in some), shared))
        first += number
    return Family(len(rows), rows[0].place[1], shared, runs)


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _out_of_memory(error: Exception) -> InfrastructureError:
    reason = str(error).strip().splitlines()[:1]
    return InfrastructureError(
        f"memory ran out with this request running by itself: {''.join(reason)}", hint="make cache_gib smaller, or shorten the prompt"
    )


@contextmanager
def _blamed_on(row: Row) -> Iterator[None]:
    """An error inside ends this row and no other."""
    try:
        yield
    except Exception as error:
        row.error = error


@contextmanager
def slot_attention_of(model: Any) -> Iterator[None]:
    """The model with the generator's attention, and its own again afterwards."""
    register()
    own = model.config._attn_implementation
    model.set_attn_implementation(ATTENTION_NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(own)
