"""How far the policy is from its reference: per-token estimators from samples, and what sets the price of the distance.

All estimators look at the sampled token only: with ``d = log p(y_t) - log p_ref(y_t)`` and ``y_t`` drawn from the policy, each has
KL(policy || reference) of that step as its expectation, exactly (k1, k3) or to second order in the distance (k2). Schulman 2020,
"Approximating KL divergence", joschu.net/blog/kl-approx.html.
"""

from typing import Annotated, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from posttrain.config import Config

KlEstimator = Literal["k1", "k2", "k3"]


def kl_per_token(
    logprobs: Float[Tensor, " token"], ref_logprobs: Float[Tensor, " token"], *, estimator: KlEstimator = "k1"
) -> Float[Tensor, " token"]:
    """KL(policy || reference) of each step, in nats, estimated from its sampled token.

    k1 = d: unbiased, of either sign, the widest spread; summed over an answer it is log p(y) / p_ref(y). k2 = d^2 / 2: never negative,
    biased. k3 = exp(-d) - 1 + d: never negative, unbiased, the one to watch. As a tax inside the reward only k1 has the gradient of the KL
    itself, because the tax is a score and is not differentiated through (Tang and Munos 2025, arXiv:2506.09477).
    """
    distance = logprobs - ref_logprobs
    if estimator == "k1":
        return distance
    if estimator == "k2":
        return distance.square() / 2
    return (-distance).expm1() + distance


class FixedKl(Config):
    """One price for the whole run: ``r - beta KL`` (Ouyang et al. 2022, arXiv:2203.02155, equation 2, without the pre-training term)."""

    name: Literal["fixed"] = "fixed"
    coefficient: float = Field(default=0.05, ge=0)
    """beta, in units of reward a nat."""

    def after(self, coefficient: float, kl: float) -> float:
        """The coefficient of the next update."""
        return coefficient


class AdaptiveKl(Config):
    """A price that holds the distance near a target (Ziegler et al. 2019, arXiv:1909.08593, section 2.2).

    ``e = clip((KL - target) / target, -limit, limit)``, ``beta <- beta (1 + gain e)`` after every update. In the paper gain is .1 and
    limit .2. TRL and lm-human-preferences write the gain as batch size / horizon; with 512 samples and a horizon of 10,000 that is .05.
    """

    name: Literal["adaptive"] = "adaptive"
    coefficient: float = Field(default=0.05, gt=0)
    """beta of the first update."""
    target: float = Field(default=6.0, gt=0)
    """Nats per answer (the estimator summed over an answer's tokens, averaged over answers)."""
    gain: float = Field(default=0.1, gt=0, lt=1)
    """How far one update may move beta, per unit of error."""
    limit: float = Field(default=0.2, gt=0, le=1)
    """Errors beyond this share of the target count as this much."""

    def after(self, coefficient: float, kl: float) -> float:
        """The coefficient of the next update, from this update's measured KL (nats per answer)."""
        error = (kl - self.target) / self.target
        return coefficient * (1 + self.gain * max(-self.limit, min(self.limit, error)))


KlController = Annotated[FixedKl | AdaptiveKl, Field(discriminator="name")]
"""``{name: fixed, coefficient: ...}`` or ``{name: adaptive, coefficient: ..., target: ...}`` in a recipe."""
