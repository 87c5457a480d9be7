"""Direct preference optimisation, plain, with soft or smoothed labels, and robust to a known rate of flipped labels."""

from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from posttrain.objectives.output import LossOutput
from posttrain.objectives.pairs import expected_loss, pair_metrics
from posttrain.objectives.registry import objectives


@objectives.register("dpo")
def dpo_loss(
    policy_chosen_logps: Float[Tensor, " pair"],
    policy_rejected_logps: Float[Tensor, " pair"],
    ref_chosen_logps: Float[Tensor, " pair"],
    ref_rejected_logps: Float[Tensor, " pair"],
    probabilities: Float[Tensor, " pair"] | None = None,
    *,
    beta: Annotated[float, Field(gt=0, description="How much a nat of log-ratio is worth; the KL coefficient of the implied reward")] = 0.1,
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5, description="Assumed share of flipped labels (conservative DPO)")] = 0.0,
) -> LossOutput:
    """Sum over pairs of -log sigmoid(beta * delta), delta = (log pi/pi_ref)(chosen) - (log pi/pi_ref)(rejected); count: pairs.

    Rafailov et al. 2023, arXiv:2305.18290, equation 7. ``label_smoothing`` e: (1 - e) of that loss plus e of the loss of the swapped pair
    (Mitchell 2023, "A note on DPO with noisy preferences & relationship to IPO", equation 3: conservative DPO).
    ``probabilities`` [pair] = P(chosen is better) takes the place of the certain label: the expected loss, smoothed where both are given.
    Inputs are log-probabilities summed over the completion. Rewards in the metrics are beta * log pi/pi_ref (equation 5 without the
    partition term). Deviation: none in the loss; ``rewards/accuracy`` counts a tie as one half.
    """
    chosen_ratios, rejected_ratios = policy_chosen_logps - ref_chosen_logps, policy_rejected_logps - ref_rejected_logps
    logits = beta * (chosen_ratios - rejected_ratios)
    certain = 1.0 if probabilities is None else probabilities
    smoothed = certain * (1 - label_smoothing) + (1 - certain) * label_smoothing
    losses = expected_loss(-logsigmoid(logits), -logsigmoid(-logits), smoothed)
    metrics = pair_metrics((beta * chosen_ratios, beta * rejected_ratios), (policy_chosen_logps, policy_rejected_logps))
    return LossOutput(losses.sum(), losses.numel(), metrics)


@objectives.register("robust_dpo")
def robust_dpo_loss(
    policy_chosen_logps: Float[Tensor, " pair"],
    policy_rejected_logps: Float[Tensor, " pair"],
    ref_chosen_logps: Float[Tensor, " pair"],
    ref_rejected_logps: Float[Tensor, " pair"],
    probabilities: Float[Tensor, " pair"] | None = None,
    *,
    beta: Annotated[float, Field(gt=0, description="How much a nat of log-ratio is worth")] = 0.1,
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5, description="Rate at which labels are flipped, known from gold items")] = 0.1,
) -> LossOutput:
    """Sum over pairs of ((1 - e) L(delta) - e L(-delta)) / (1 - 2e), L(d) = -log sigmoid(beta d), e = ``label_smoothing``; count: pairs.

    Chowdhury et al. 2024, arXiv:2403.00409, section 3.1: where labels are flipped at rate e, its expectation is DPO's loss on clean labels.
    A confidently right pair has a negative loss, falling without bound: watch the margin. ``probabilities`` as in :func:`dpo_loss`, an
    extension of ours: the expected loss over the label. At e = 0 it is DPO.
    """
    chosen_ratios, rejected_ratios = policy_chosen_logps - ref_chosen_logps, policy_rejected_logps - ref_rejected_logps
    logits = beta * (chosen_ratios - rejected_ratios)
    right, wrong, clean = -logsigmoid(logits), -logsigmoid(-logits), 1 - 2 * label_smoothing
    as_labelled = ((1 - label_smoothing) * right - label_smoothing * wrong) / clean
    swapped = ((1 - label_smoothing) * wrong - label_smoothing * right) / clean
    losses = expected_loss(as_labelled, swapped, probabilities)
    metrics = pair_metrics((beta * chosen_ratios, beta * rejected_ratios), (policy_chosen_logps, policy_rejected_logps))
    return LossOutput(losses.sum(), losses.numel(), metrics)
