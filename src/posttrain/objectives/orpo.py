"""Odds ratio preference optimisation: likelihood of the chosen answer and odds against the rejected one, in one stage, no reference."""

from typing import Annotated

import torch
from jaxtyping import Float, Num
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from posttrain.objectives.output import LossOutput
from posttrain.objectives.pairs import average, expected_loss, pair_metrics
from posttrain.objectives.registry import objectives


@objectives.register("orpo")
def orpo_loss(
    policy_chosen_logps: Float[Tensor, " pair"],
    policy_rejected_logps: Float[Tensor, " pair"],
    chosen_lengths: Num[Tensor, " pair"],
    rejected_lengths: Num[Tensor, " pair"],
    probabilities: Float[Tensor, " pair"] | None = None,
    *,
    beta: Annotated[float, Field(ge=0, description="The paper's lambda: weight of the odds-ratio term beside the likelihood")] = 0.1,
) -> LossOutput:
    """Sum over pairs of L_SFT + beta L_OR; count: pairs.

    L_SFT = -log P(y_w), L_OR = -log sigmoid(log odds(y_w) - log odds(y_l)), log P(y) the mean log-probability of a supervised token, odds
    = P / (1 - P). Hong et al. 2024, arXiv:2403.07691, equations 3, 4, 6 and 7. The likelihood term imitates the chosen answers: they must
    be worth imitating. Deviations: the likelihood is over supervised tokens, one mean a pair (TRL: over prompt
    and answer, one mean over all tokens of the batch); ``probabilities`` = P(chosen is better) gives the loss expected over the label,
    likelihood term included. The rewards of the metrics are beta log P, as in TRL; ``nll`` and ``log_odds_ratio`` stand beside them.
    """
    chosen, rejected = average(policy_chosen_logps, chosen_lengths), average(policy_rejected_logps, rejected_lengths)
    log_odds_ratios = _log_odds(chosen) - _log_odds(rejected)
    as_labelled = -chosen - beta * logsigmoid(log_odds_ratios)
    swapped = -rejected - beta * logsigmoid(-log_odds_ratios)
    losses = expected_loss(as_labelled, swapped, probabilities)
    metrics = pair_metrics(
        (beta * chosen, beta * rejected), (policy_chosen_logps, policy_rejected_logps), nll=-chosen, log_odds_ratio=log_odds_ratios
    )
    return LossOutput(losses.sum(), losses.numel(), metrics)


def _log_odds(logprobs: Float[Tensor, " pair"]) -> Float[Tensor, " pair"]:
    """log(P / (1 - P)) from log P <= 0, with log(1 - P) as log(-expm1(log P)), exact where P is near 1.

    P nearer to 1 than the type can tell is taken as 1 - eps: the odds stay finite, and no gradient comes from there.
    """
    below_one = logprobs.clamp(max=-torch.finfo(logprobs.dtype).eps)
    return below_one - torch.log(-torch.expm1(below_one))
