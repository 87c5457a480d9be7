"""Which items meet in which step: a pure function of the data, the seed and the settings.

So the position in the data is the step number, and resuming needs no state of its own. Steps are cut from the shuffled epochs, one
after the other. Items that begin alike may be kept together (``group_shared_prefixes``): groups are shuffled, their members are not
separated unless a group has to fill a step. How a step is cut into micro-batches changes memory and speed only, so it is decided
when the step comes (:func:`split_microbatches`) and may differ after a resume.
"""

import hashlib
import itertools
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posttrain.errors import ConfigError
from posttrain.training.items import TrainingItem
from posttrain.training.settings import TrainingSettings

_LOOK_AHEAD = 64  # groups tried when the next one does not fit into a step
_WORTH_GROUPING = 0.25  # share of the shorter sequence that must be common for two items to be kept together


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """steps: for each optimiser step the positions of its items. hash: SHA-256 of them."""

    steps: tuple[tuple[int, ...], ...]
    hash: str

    @property
    def num_steps(self) -> int:
        """How many optimiser steps the run has."""
        return len(self.steps)


def build_plan(items: Sequence[TrainingItem], settings: TrainingSettings) -> BatchPlan:
    """The items of every step. All steps are full but the last. Raises ConfigError when there are no items."""
    if not items:
        raise ConfigError("there is nothing to train on: 0 items", hint="check the data file and what was dropped from it")
    total = settings.max_steps * settings.sequences_per_step if settings.max_steps else max(1, round(len(items) * settings.epochs))
    is_larger = len(items) > settings.sequences_per_step  # where a step holds all items, groups would only fix their order
    if settings.group_shared_prefixes and settings.share_prefixes and is_larger:
        groups = prefix_groups(items, cap=settings.sequences_per_step, min_shared=settings.min_shared_tokens)
    else:
        groups = [[position] for position in range(len(items))]
    order: deque[list[int]] = deque()
    for epoch in range(math.ceil(total / len(items))):
        shuffled = np.random.default_rng([settings.seed, epoch]).permutation(len(groups))
        order.extend(groups[number] for number in shuffled)
    steps = _cut_steps(order, total, settings.sequences_per_step)
    return BatchPlan(steps, hashlib.sha256(repr(steps).encode()).hexdigest())


def _cut_steps(order: deque[list[int]], total: int, size: int) -> tuple[tuple[int, ...], ...]:
    """Fill steps of ``size`` items from groups in ``order``, ``total`` items in all.

    A group that no longer fits waits for the next step while up to 64 later ones are tried; if none fills the step, the group is split.
    """
    steps: list[tuple[int, ...]] = []
    while total > 0:
        room = min(size, total)
        total -= room
        step: list[int] = []
        waiting: list[list[int]] = []
        while room and order and len(waiting) < _LOOK_AHEAD:
            group = order.popleft()
            if len(group) <= room:
                step += group
                room -= len(group)
            else:
                waiting.append(group)
        if room:
            first = waiting.pop(0)
            step += first[:room]
            waiting.insert(0, first[room:])
        order.extendleft(reversed(waiting))
        steps.append(tuple(step))
    return tuple(steps)


def prefix_groups(items: Sequence[TrainingItem], *, cap: int, min_shared: int) -> list[list[int]]:
    """Positions of items that begin alike, at most ``cap`` in a group; items are compared by their first sequence.

    What a too large group has in common (a system prompt) is shared in every micro-batch whatever the order, so it is no reason to
    keep two items together: such a group is split again, counting only what its parts share beyond that.
    """
    keys = [item.sequences[0].input_ids.astype(">i4").tobytes() for item in items]
    order = sorted(range(len(items)), key=keys.__getitem__)
    ids = [items[position].sequences[0].input_ids for position in order]
    common = np.array([0] + [common_prefix(a, b) for a, b in itertools.pairwise(ids)])
    lengths = np.array([len(row) for row in ids])
    shorter = np.minimum(lengths, np.concatenate((lengths[:1], lengths[:-1])))
    worth = np.maximum(min_shared, np.ceil(_WORTH_GROUPING * shorter))
    groups: list[list[int]] = []
    ranges = [(0, len(order), 0)]
    while ranges:
        start, end, base = ranges.pop()
        cuts = [start, *(np.flatnonzero(common[start + 1 : end] < base + worth[start + 1 : end]) + start + 1), end]
        for a, b in itertools.pairwise(cuts):
            if b - a <= cap:
                groups.append([order[rank] for rank in range(a, b)])
            else:
                ranges.append((a, b, int(common[a + 1 : b].min())))
    return groups


def common_prefix(a: NDArray[np.int32], b: NDArray[np.int32]) -> int:
    """How many tokens two sequences have in common at their beginning."""
    length = min(len(a), len(b))
    differs = a[:length] != b[:length]
    return int(differs.argmax()) if differs.any() else length


def split_microbatches(
    items: Sequence[TrainingItem], *, max_tokens: int, share: bool, min_shared: int, at_least: int = 1
) -> list[tuple[int, ...]]:
    """Cut the items of a step into micro-batches of at most ``max_tokens`` packed tokens; positions into ``items``.

    Items are taken in lexicographic order of their ids, so those that begin alike stay together. Packed tokens are bounded from
    above: of a common beginning of c tokens at least c - min_shared + 1 are shared. An item larger than the limit is alone.
    ``at_least`` asks for that many micro-batches where there are items enough (one for every worker).
    """
    order = sorted(range(len(items)), key=lambda position: items[position].sequences[0].input_ids.astype(">i4").tobytes())
    sizes = _marginal_tokens([items[position] for position in order], share=share, min_shared=min_shared)
    if at_least > 1:
        max_tokens = min(max_tokens, math.ceil(sum(added for added, _ in sizes) / at_least))
    batches: list[list[int]] = []
    used = 0
    for rank, (position, (added, alone)) in enumerate(zip(order, sizes, strict=True)):
        items_left, batches_short = len(order) - rank, at_least - len(batches)
        if not batches or used + added > max_tokens or items_left <= batches_short:
            batches.append([])
            used, added = 0, alone
        batches[-1].append(position)
        used += added
    return [tuple(batch) for batch in batches]


def _marginal_tokens(items: Sequence[TrainingItem], *, share: bool, min_shared: int) -> list[tuple[int, int]]:
    """For items in lexicographic order: packed tokens each adds after its predecessor, and those it has alone."""
    result = []
    previous: NDArray[np.int32] | None = None
    for item in items:
        first, *others = (sequence.input_ids for sequence in item.sequences)
        alone = len(first) + sum(len(row) - (_shared(first, row, min_shared) if share else 0) for row in others)
        saved = _shared(previous, first, min_shared) if share and previous is not None else 0
        result.append((alone - saved, alone))
        previous = first
    return result


def _shared(a: NDArray[np.int32], b: NDArray[np.int32], min_shared: int) -> int:
    return max(0, common_prefix(a, b) - min_shared + 1)
