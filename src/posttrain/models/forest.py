"""Many sequences as one packed row: a forest of shared prefixes, without padding.

Sequences that begin with the same tokens (six questions about one report, the chosen and the rejected answer, a group of samples) keep
those tokens once. The row is a path-compressed trie written in depth-first order: a *node* is a run of tokens, its ancestors are what came
before it on every path through it. A token sees its ancestors and itself and nothing else; its position is its depth on the path.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from posttrain.errors import DataError
from posttrain.records import TokenSequence


@dataclass(frozen=True)
class Forest:
    """One packed row and where its losses look.

    ``nodes`` and ``leaves`` describe structure and stay on the CPU; everything else moves with :meth:`to`. A node's row is (start, end,
    parent,
    subtree end), all int64: its tokens are ``start:end``, those of all its descendants ``end:subtree end``; parent is -1 at a root.
    """

    input_ids: Int[Tensor, " token"]
    position_ids: Int[Tensor, " token"]
    nodes: Int[Tensor, "node 4"]
    leaves: Int[Tensor, " sequence"]
    """The node in which each sequence ends."""
    logit_rows: Int[Tensor, " target"]
    """The packed row whose hidden state predicts each target. Targets are ordered by sequence, then position."""
    target_ids: Int[Tensor, " target"]
    sequence_ids: Int[Tensor, " target"]
    num_sequences: int
    num_logical_tokens: int
    """Tokens of all sequences before sharing; ``len(input_ids)`` is what is computed."""

    @property
    def is_shared(self) -> bool:
        """Whether any token serves more than one sequence."""
        return self.num_logical_tokens > self.input_ids.shape[0]

    def to(self, device: torch.device | str) -> "Forest":
        """The same forest with its token and target tensors on ``device``."""
        moved = ("input_ids", "position_ids", "logit_rows", "target_ids", "sequence_ids")
        return replace(self, **{name: getattr(self, name).to(device) for name in moved})

    def paths(self) -> Iterator[Int[Tensor, " length"]]:
        """For each sequence, in the order given, the packed rows of its tokens."""
        nodes = self.nodes.numpy()
        for leaf in self.leaves.tolist():
            yield torch.from_numpy(_path(nodes, leaf))


def build_forest(sequences: Sequence[TokenSequence], *, share: bool = True, min_shared: int = 16) -> Forest:
    """Pack ``sequences`` into one row; prefixes of at least ``min_shared`` tokens held in common are kept once.

    ``min_shared`` keeps a template's few opening tokens from rooting everything in one node, which would cost more than it saves. With
    ``share=False`` every sequence is a root. A supervised token 0 has nothing that predicts it and is no target. Raises DataError for no
    sequence or an empty one.
    """
    if not sequences:
        raise DataError("cannot pack a batch without sequences", hint="give at least one sequence")
    for sequence in sequences:
        if len(sequence) == 0:
            raise DataError(f"row {sequence.index}: a sequence without tokens cannot be packed", hint="drop the row")
    rows = [np.ascontiguousarray(sequence.input_ids, dtype=np.int64) for sequence in sequences]
    nodes, leaves, order = _trie(rows, min_shared if share else None)
    tokens = np.concatenate([rows[owner][first:last] for owner, first, last in order])
    positions = np.concatenate([np.arange(first, last, dtype=np.int64) for _, first, last in order])
    logit_rows, target_ids, sequence_ids = [], [], []
    for number, sequence in enumerate(sequences):
        targets = np.flatnonzero(sequence.completion_mask[1:]) + 1
        logit_rows.append(_path(nodes, leaves[number])[targets - 1])
        target_ids.append(rows[number][targets])
        sequence_ids.append(np.full(targets.shape, number, dtype=np.int64))
    return Forest(
        input_ids=torch.from_numpy(tokens),
        position_ids=torch.from_numpy(positions),
        nodes=torch.from_numpy(nodes),
        leaves=torch.from_numpy(leaves),
        logit_rows=torch.from_numpy(np.concatenate(logit_rows)),
        target_ids=torch.from_numpy(np.concatenate(target_ids)),
        sequence_ids=torch.from_numpy(np.concatenate(sequence_ids)),
        num_sequences=len(sequences),
        num_logical_tokens=sum(len(row) for row in rows),
    )


def _path(nodes: NDArray[np.int64], leaf: int) -> NDArray[np.int64]:
    """Packed rows from the root to the end of node ``leaf``."""
    spans, node = [], int(leaf)
    while node >= 0:
        spans.append(np.arange(nodes[node, 0], nodes[node, 1], dtype=np.int64))
        node = int(nodes[node, 2])
    return np.concatenate(spans[::-1])


def _common_prefix(first: NDArray[np.int64], second: NDArray[np.int64]) -> int:
    length = min(len(first), len(second))
    differing = np.flatnonzero(first[:length] != second[:length])
    return int(differing[0]) if differing.size else length


def _trie(rows: list[NDArray[np.int64]], min_shared: int | None) -> tuple[NDArray[np.int64], NDArray[np.int64], list[tuple[int, int, int]]]:
    """Nodes in depth-first order, each row's last node, and for every node the (row, first, last) its tokens are copied from."""
    count = len(rows)
    if min_shared is None:
        ranked, common = list(range(count)), [0] * count
    else:  # big-endian bytes of non-negative ids compare as the ids do, a prefix before what extends it
        keys = [row.astype(">i8").tobytes() for row in rows]
        ranked = sorted(range(count), key=keys.__getitem__)
        common = [_common_prefix(rows[left], rows[right]) for left, right in pairwise(ranked)] + [0]
    least = 1 if min_shared is None else max(min_shared, 1)
    leaves = np.zeros(count, dtype=np.int64)
    nodes: list[list[int]] = []
    sources: list[tuple[int, int, int]] = []
    stack = [(first, last, 0, -1) for first, last in _groups(0, count, 0, common, least)]
    while stack:  # ranks first..last-1 agree on their first `offset` tokens, which end in node `parent`
        first, last, offset, parent = stack.pop()
        end = min([len(rows[ranked[first]]), *common[first : last - 1]])
        start = nodes[-1][1] if nodes else 0
        node = len(nodes)
        nodes.append([start, start + end - offset, parent, start + end - offset])
        sources.append((ranked[first], offset, end))
        while first < last and len(rows[ranked[first]]) == end:
            leaves[ranked[first]] = node
            first += 1
        stack += [(*group, end, node) for group in _groups(first, last, end, common, least)]
    for _, _, parent, subtree_end in reversed(nodes):
        if parent >= 0:
            nodes[parent][3] = max(nodes[parent][3], subtree_end)
    return np.array(nodes, dtype=np.int64), leaves, sources


def _groups(first: int, last: int, offset: int, common: list[int], least: int) -> list[tuple[int, int]]:
    """Ranges of neighbouring ranks that share at least ``least`` tokens beyond ``offset``; last group first, as a stack wants them."""
    groups, begin = [], first
    for rank in range(first, last):
        if rank == last - 1 or common[rank] - offset < least:
            groups.append((begin, rank + 1))
            begin = rank + 1
    return groups[::-1]
