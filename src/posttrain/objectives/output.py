"""What every objective returns."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, slots=True)
class LossOutput:
    """A loss as a sum and its count, divided once by the whole step's count.

    loss_sum: scalar, differentiable. count: how many terms it sums (tokens, pairs ...). metrics: detached numbers, each a sum over
    ``count`` terms unless the objective says otherwise.
    """

    loss_sum: Tensor
    count: int
    metrics: dict[str, float] = field(default_factory=dict)
