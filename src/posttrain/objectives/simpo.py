"""Simple preference optimisation: no reference, the reward is the average log-probability of a token."""

from typing import Annotated

from jaxtyping import Float, Num
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from posttrain.objectives.output import LossOutput
from posttrain.objectives.pairs import average, expected_loss, pair_metrics
from posttrain.objectives.registry import objectives


@objectives.register("simpo")
def simpo_loss(
    policy_chosen_logps: Float[Tensor, " pair"],
    policy_rejected_logps: Float[Tensor, " pair"],
    chosen_lengths: Num[Tensor, " pair"],
    rejected_lengths: Num[Tensor, " pair"],
    probabilities: Float[Tensor, " pair"] | None = None,
    *,
    beta: Annotated[float, Field(gt=0, description="Scale of the reward: beta times the mean log-probability of a token")] = 2.0,
    gamma: Annotated[float, Field(ge=0, description="Margin the rewards should differ by; the paper advises gamma / beta near 0.5")] = 1.0,
) -> LossOutput:
    """Sum over pairs of -log sigmoid(beta/|y_w| log pi(y_w) - beta/|y_l| log pi(y_l) - gamma); count: pairs.

    Meng et al. 2024, arXiv:2405.14734, equation 6. Lengths are supervised tokens, the end-of-turn token included where it is supervised.
    Deviation: ``probabilities`` = P(chosen is better) gives the loss expected over the label, the margin asked of whichever is better.
    """
    chosen_rewards = beta * average(policy_chosen_logps, chosen_lengths)
    rejected_rewards = beta * average(policy_rejected_logps, rejected_lengths)
    margins = chosen_rewards - rejected_rewards
    losses = expected_loss(-logsigmoid(margins - gamma), -logsigmoid(-margins - gamma), probabilities)
    metrics = pair_metrics((chosen_rewards, rejected_rewards), (policy_chosen_logps, policy_rejected_logps))
    return LossOutput(losses.sum(), losses.numel(), metrics)
