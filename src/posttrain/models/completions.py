"""Log-probabilities of many completions without gradients: packed, shared where they begin alike, given back in the order asked."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from posttrain.models.forest import build_forest
from posttrain.models.policy import Policy
from posttrain.records import TokenSequence


@torch.no_grad()
def completion_logprobs(policy: Policy, sequences: Sequence[TokenSequence], *, max_tokens: int = 4096) -> list[Float[Tensor, " target"]]:
    """float32 log p of the supervised tokens of each sequence, on the CPU, in the order given.

    Sequences are packed in lexicographic order of their ids, so that those which begin alike are computed together; a forest holds at
    most ``max_tokens`` tokens before sharing, or one longer sequence.
    """
    found: list[Tensor] = [torch.empty(0)] * len(sequences)
    for positions in packs(sequences, max_tokens):
        forest = build_forest([sequences[position] for position in positions]).to(policy.device)
        logprobs = policy.logprobs(forest).cpu()
        counts = torch.bincount(forest.sequence_ids.cpu(), minlength=len(positions)).tolist()
        for position, part in zip(positions, torch.split(logprobs, counts), strict=True):
            found[position] = part
    return found


def packs(sequences: Sequence[TokenSequence], max_tokens: int) -> Iterator[list[int]]:
    """Positions in lexicographic order of their ids, in packs of at most ``max_tokens`` tokens before sharing, or one longer sequence."""
    order = sorted(range(len(sequences)), key=lambda position: sequences[position].input_ids.astype(">i4").tobytes())
    pack: list[int] = []
    used = 0
    for position in order:
        length = len(sequences[position])
        if pack and used + length > max_tokens:
            yield pack
            pack, used = [], 0
        pack.append(position)
        used += length
    if pack:
        yield pack
