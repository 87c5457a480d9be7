"""Supervised fine-tuning: the negative log-likelihood of the supervised tokens."""

from jaxtyping import Float
from torch import Tensor

from posttrain.objectives.output import LossOutput
from posttrain.objectives.registry import objectives


@objectives.register("sft")
def sft_loss(logprobs: Float[Tensor, " target"], weights: Float[Tensor, " target"] | None = None) -> LossOutput:
    """Sum of -w_t log p(y_t | y_<t, x) over the supervised tokens, and their number.

    logprobs: log p of each supervised token (masked-out tokens are not handed in). weights: per-token factors >= 0, default 1.
    Dividing the sum by the count gives the mean token cross-entropy of a step (Ouyang et al. 2022, arXiv:2203.02155, section 3.5, the
    supervised step). Probabilities .8 and .4 give -(log .8 + log .4) = 1.139 as the sum, .570 as the mean. The count stays the number of
    tokens when weights are given, so a weight of one half halves a token's say and does not hand it to the others.
    """
    losses = -logprobs if weights is None else -weights * logprobs
    return LossOutput(loss_sum=losses.sum(), count=logprobs.numel())
