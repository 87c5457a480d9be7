"""What is trained on: items, and the micro-batch an objective sees.

An item is the unit that is never taken apart: one sequence for SFT, chosen and rejected for a preference objective, all answers to
one prompt for a group objective. The loop only ever handles items, so an objective of another shape needs no other loop.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from posttrain.errors import TrainingError, suggest
from posttrain.models import Forest, build_forest
from posttrain.records import TokenSequence


@dataclass(frozen=True, slots=True)
class TrainingItem:
    """Sequences that must stay in one micro-batch, with the tensors their objective needs.

    tensors: by name, e.g. ``advantages`` [sequence] or ``ref_logprobs`` [target], target order being sequence, then position.
    """

    sequences: tuple[TokenSequence, ...]
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def rows(self) -> tuple[int, ...]:
        """Row numbers of the item in its data set, each once, for reports and errors."""
        return tuple(dict.fromkeys(sequence.index for sequence in self.sequences))

    @property
    def num_tokens(self) -> int:
        """Tokens of all sequences, shared ones counted each time."""
        return sum(len(sequence) for sequence in self.sequences)


@dataclass(frozen=True, slots=True)
class Microbatch:
    """The items of one forward pass. ``number`` counts from 0 within the step."""

    number: int
    items: tuple[TrainingItem, ...]
    device: torch.device

    @property
    def sequences(self) -> list[TokenSequence]:
        """The sequences of all items, item by item: position i here is ``sequence_ids`` i in the forest."""
        return [sequence for item in self.items for sequence in item.sequences]

    @property
    def rows(self) -> list[int]:
        """Row numbers of the data this micro-batch holds."""
        return [row for item in self.items for row in item.rows]

    def concat(self, name: str) -> Tensor:
        """The items' tensors called ``name`` joined along their first axis, on the device of the model."""
        for item in self.items:
            if name not in item.tensors:
                raise TrainingError(f"an item of rows {list(item.rows)} has no tensor '{name}'", hint=suggest(name, item.tensors))
        return torch.cat([item.tensors[name] for item in self.items]).to(self.device)

    def build_forest(self, *, share: bool, min_shared: int) -> Forest:
        """The packed row of this micro-batch."""
        return build_forest(self.sequences, share=share, min_shared=min_shared).to(self.device)


def as_items(data: Sequence[TokenSequence] | Sequence[TrainingItem]) -> list[TrainingItem]:
    """Wrap bare sequences as items of one; leave items as they are."""
    return [entry if isinstance(entry, TrainingItem) else TrainingItem((entry,)) for entry in data]


def data_hash(items: Sequence[TrainingItem]) -> str:
    """SHA-256 over the token ids, masks and tensors of all items, in order."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(b"item")
        for sequence in item.sequences:
            digest.update(len(sequence).to_bytes(8, "little"))
            digest.update(sequence.input_ids.tobytes())
            digest.update(sequence.completion_mask.tobytes())
        for name, tensor in sorted(item.tensors.items()):
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
