"""Kahneman-Tversky optimisation: single answers with a good or bad label, weighed against the policy's average drift."""

from typing import Annotated

from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, stack, where

from posttrain.objectives.output import LossOutput
from posttrain.objectives.registry import objectives


@objectives.register("kto")
def kto_loss(
    policy_logps: Float[Tensor, " sequence"],
    ref_logps: Float[Tensor, " sequence"],
    labels: Bool[Tensor, " sequence"],
    kl: Float[Tensor, ""],
    *,
    beta: Annotated[float, Field(gt=0, description="How fast the value of a nat of log-ratio saturates")] = 0.1,
    desirable_weight: Annotated[float, Field(gt=0, description="lambda_D: weight of good answers")] = 1.0,
    undesirable_weight: Annotated[float, Field(gt=0, description="lambda_U: weight of bad answers")] = 1.0,
) -> LossOutput:
    """Sum of lambda_D (1 - sigmoid(beta (r - z))) over good answers and lambda_U (1 - sigmoid(beta (z - r))) over bad; count: answers.

    r = log pi/pi_ref summed over the completion; z = max(0, ``kl``), without gradient: the mean of log pi/pi_ref over completions paired
    with prompts they do not belong to, taken over the whole step and all processes (a mean of unequal parts' means would be biased).
    Ethayarajh et al. 2024, arXiv:2402.01306, equation 7; 1 - sigmoid(u) is computed as sigmoid(-u), which keeps its gradient for large u.
    Keep lambda_D * good / (lambda_U * bad) within [1, 4/3] (equation 8). Deviation: none.

    Metrics of one label are sums over its answers: divide ``rewards/chosen`` and ``logps/chosen`` (good) by ``desirable``, those of
    ``rejected`` (bad) by ``undesirable``.
    """
    ratios = policy_logps - ref_logps
    gains = ratios - kl.detach().clamp(min=0)
    advantages = where(labels, gains, -gains)
    good = labels.to(ratios.dtype)
    losses = (desirable_weight * good + undesirable_weight * (1 - good)) * (-beta * advantages).sigmoid()
    numbers = {
        "rewards/chosen": beta * ratios * good,
        "rewards/rejected": beta * ratios * (1 - good),
        "logps/chosen": policy_logps * good,
        "logps/rejected": policy_logps * (1 - good),
        "desirable": good,
        "undesirable": 1 - good,
        "kl": kl.expand_as(ratios),
    }
    sums = stack([values.detach().sum() for values in numbers.values()])
    return LossOutput(losses.sum(), losses.numel(), dict(zip(numbers, sums.tolist(), strict=True)))
