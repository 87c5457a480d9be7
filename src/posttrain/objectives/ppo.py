"""Proximal policy optimisation on answers: rewards by token, advantages, and the two clipped losses.

Tensors over tokens hold the generated tokens of all answers, one answer after the other, without padding; ``lengths`` says how many
belong to each.
"""

from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from posttrain.objectives.output import LossOutput
from posttrain.objectives.registry import objectives

WHITENING_EPSILON = 1e-8
"""Added to the variance (lm-human-preferences, ``utils.core.whiten``)."""


def taxed_rewards(
    scores: Float[Tensor, " sequence"], kl: Float[Tensor, " token"], lengths: Int[Tensor, " sequence"], *, kl_coef: float
) -> Float[Tensor, " token"]:
    """``r_t = -kl_coef * kl_t``, plus the answer's score at its last token: EOS, or the token the length limit cut it at.

    Ziegler et al. 2019 (arXiv:1909.08593), equation 2, spread over the tokens as in Stiennon et al. 2020 (arXiv:2009.01325), appendix B.
    Summed over an answer: ``score - kl_coef * KL``. Score 1.2 and KL .5 give 1.15 at .1 and -.3 at 3. Every answer has a token.
    """
    rewards = -kl_coef * kl
    return rewards.index_add(0, lengths.cumsum(0) - 1, scores.to(rewards.dtype))


def gae(
    rewards: Float[Tensor, " token"],
    values: Float[Tensor, " token"],
    lengths: Int[Tensor, " sequence"],
    *,
    discount: float = 1.0,
    trace_decay: float = 0.95,
) -> tuple[Float[Tensor, " token"], Float[Tensor, " token"]]:
    """Advantages and value targets (returns), in the dtype of ``rewards``.

    Schulman et al. 2016 (arXiv:1506.02438), equations 11 and 16: ``delta_t = r_t + discount V_{t+1} - V_t`` and
    ``A_t = sum_l (discount trace_decay)^l delta_{t+l}`` within the answer; the return is ``A_t + V_t``. After the last token the value
    is 0: an answer cut by the length limit is scored as it stands, so there is nothing left to expect.

    The sum is a scan by doubling: after k rounds every token holds the sum of its next 2^k deltas, so log2(longest) vector additions do all
    answers at once. The factors never exceed 1, so nothing is divided or can overflow, and rounding grows with log2 of the length.
    """
    ends = lengths.cumsum(0).repeat_interleave(lengths)
    left = ends - torch.arange(len(rewards), device=rewards.device)  # tokens from here to the answer's end, this one counted
    following = torch.where(left > 1, values.roll(-1), torch.zeros_like(values))
    advantages = rewards + discount * following - values
    reach, decay = 1, discount * trace_decay
    while reach < int(lengths.max()):
        advantages = advantages + torch.where(left > reach, decay * advantages.roll(-reach), torch.zeros_like(advantages))
        reach, decay = 2 * reach, decay * decay
    return advantages, advantages + values


def whiten(
    values: Float[Tensor, " *axes"], mask: Bool[Tensor, " *axes"] | None = None, *, shift_mean: bool = True
) -> Float[Tensor, " *axes"]:
    """``(x - mean) / sqrt(var + 1e-8)`` over the entries where ``mask`` is True (all without one); the others come back as 0.

    With ``shift_mean=False`` the mean is put back: only the scale changes. The variance is the population's, as in lm-human-preferences;
    TRL's PPO divided by n - 1. To be called once with the whole batch of an update: whitening by mini-batch would make the advantage
    of a token depend on its company. Constant input gives zeros (or the mean).
    """
    kept = values if mask is None else values[mask]
    if kept.numel() == 0:
        return torch.zeros_like(values)
    mean = kept.mean()
    scaled = (values - mean) * (kept.var(correction=0) + WHITENING_EPSILON).rsqrt()
    scaled = scaled if shift_mean else scaled + mean
    return scaled if mask is None else scaled.masked_fill(~mask, 0.0)


@objectives.register("ppo_policy")
def ppo_policy_loss(
    logprobs: Float[Tensor, " token"],
    old_logprobs: Float[Tensor, " token"],
    advantages: Float[Tensor, " token"],
    *,
    clip_epsilon: Annotated[float, Field(gt=0, lt=1)] = 0.2,
) -> LossOutput:
    """Sum over tokens of ``max(-A rho, -A clip(rho, 1 - eps, 1 + eps))`` with ``rho = exp(logprobs - old_logprobs)``.

    Schulman et al. 2017 (arXiv:1707.06347), equation 7, negated. Every token counts the same, whatever its answer's length. No entropy
    bonus: the KL tax keeps the policy wide. Metrics, each a sum over tokens: clip_fraction (the clip took the gradient away), update_kl
    (k3 of the old policy against this one, in nats).
    """
    distance = logprobs - old_logprobs
    ratio = distance.exp()
    plain, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - clip_epsilon, 1 + clip_epsilon)
    with torch.no_grad():
        metrics = {"clip_fraction": float((clipped > plain).sum()), "update_kl": float((ratio - 1 - distance).sum())}
    return LossOutput(torch.maximum(plain, clipped).sum(), logprobs.numel(), metrics)


@objectives.register("ppo_value")
def ppo_value_loss(
    values: Float[Tensor, " token"],
    old_values: Float[Tensor, " token"],
    returns: Float[Tensor, " token"],
    *,
    clip_range: Annotated[float, Field(gt=0)] = 0.2,
) -> LossOutput:
    """Sum over tokens of ``max((V - R)^2, (clip(V, V_old - range, V_old + range) - R)^2) / 2``.

    The clipped value loss of OpenAI's baselines ``ppo2`` (with its one half), in no paper of theirs; Engstrom et al. 2020
    (arXiv:2005.12729), section 3, describe it. The range is in units of reward. Metrics, sums over tokens: value_clip_fraction.
    """
    clipped = old_values + (values - old_values).clamp(-clip_range, clip_range)
    plain_loss, clipped_loss = (values - returns).square(), (clipped - returns).square()
    metrics = {"value_clip_fraction": float((clipped_loss > plain_loss).sum())}
    return LossOutput(torch.maximum(plain_loss, clipped_loss).sum() / 2, values.numel(), metrics)
