"""What the objectives on pairs share: soft labels, lengths and the numbers watched while training."""

from jaxtyping import Float, Num
from torch import Tensor, stack


def expected_loss(
    as_labelled: Float[Tensor, " pair"], swapped: Float[Tensor, " pair"], probabilities: Float[Tensor, " pair"] | float | None
) -> Float[Tensor, " pair"]:
    """p * loss(chosen, rejected) + (1 - p) * loss(rejected, chosen): the loss expected when the label is right with probability p.

    Without ``probabilities`` every label is certain. An exact 1 gives the loss of the hard label to the bit.
    """
    return as_labelled if probabilities is None else probabilities * as_labelled + (1 - probabilities) * swapped


def average(logps: Float[Tensor, " sequence"], lengths: Num[Tensor, " sequence"]) -> Float[Tensor, " sequence"]:
    """Mean log-probability of a supervised token; 0 for a completion without any."""
    return logps / lengths.clamp(min=1)


def pair_metrics(
    rewards: tuple[Float[Tensor, " pair"], Float[Tensor, " pair"]],
    logps: tuple[Float[Tensor, " pair"], Float[Tensor, " pair"]] | None = None,
    **others: Float[Tensor, " pair"],
) -> dict[str, float]:
    """Sums over the pairs, detached: ``rewards/`` chosen, rejected, margin and accuracy (a tie is one half), ``logps/``, and ``others``.

    rewards, logps: (chosen, rejected). One transfer from the device for all numbers.
    """
    chosen, rejected = rewards
    numbers = {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margin": chosen - rejected,
        "rewards/accuracy": ((chosen - rejected).sign() + 1) / 2,
    }
    if logps is not None:
        numbers |= {"logps/chosen": logps[0], "logps/rejected": logps[1]}
    numbers |= others
    sums = stack([values.detach().sum() for values in numbers.values()])
    return dict(zip(numbers, sums.tolist(), strict=True))
