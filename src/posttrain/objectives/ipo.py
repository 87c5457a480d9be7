"""Identity preference optimisation: a squared loss that draws the log-ratio margin to a finite target."""

from typing import Annotated

from jaxtyping import Float, Num
from pydantic import Field
from torch import Tensor

from posttrain.objectives.output import LossOutput
from posttrain.objectives.pairs import average, expected_loss, pair_metrics
from posttrain.objectives.registry import objectives


@objectives.register("ipo")
def ipo_loss(
    policy_chosen_logps: Float[Tensor, " pair"],
    policy_rejected_logps: Float[Tensor, " pair"],
    ref_chosen_logps: Float[Tensor, " pair"],
    ref_rejected_logps: Float[Tensor, " pair"],
    chosen_lengths: Num[Tensor, " pair"],
    rejected_lengths: Num[Tensor, " pair"],
    probabilities: Float[Tensor, " pair"] | None = None,
    *,
    beta: Annotated[float, Field(gt=0, description="The paper's tau: the margin is drawn to 1 / (2 beta) nats")] = 0.1,
    average_logps: Annotated[bool, Field(description="Log-ratios a token (TRL's form) in place of sums (as published)")] = False,
) -> LossOutput:
    """Sum over pairs of (h - 1/(2 beta))^2, h = (log pi/pi_ref)(chosen) - (log pi/pi_ref)(rejected); count: pairs.

    Azar et al. 2023, arXiv:2310.12036, equation 17, on sums over the completion as published. ``average_logps`` divides each log-ratio by
    its number of supervised tokens, so that the target is a margin a token, whatever the lengths: TRL's form, which its authors say the
    paper's own results used. Deviation: ``probabilities`` = P(chosen is better) gives the loss expected over the label, least where h =
    (2p - 1)/(2 beta). Rewards in the metrics are beta times the log-ratios as compared.
    """
    chosen, rejected = policy_chosen_logps - ref_chosen_logps, policy_rejected_logps - ref_rejected_logps
    if average_logps:
        chosen, rejected = average(chosen, chosen_lengths), average(rejected, rejected_lengths)
    margins, target = chosen - rejected, 1 / (2 * beta)
    losses = expected_loss((margins - target).square(), (margins + target).square(), probabilities)
    metrics = pair_metrics((beta * chosen, beta * rejected), (policy_chosen_logps, policy_rejected_logps))
    return LossOutput(losses.sum(), losses.numel(), metrics)
