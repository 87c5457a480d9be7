"""The loss of a reward model: the better answer should score higher."""

from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from posttrain.objectives.output import LossOutput
from posttrain.objectives.pairs import expected_loss, pair_metrics
from posttrain.objectives.registry import objectives


@objectives.register("bradley_terry")
def bradley_terry_loss(
    chosen_rewards: Float[Tensor, " pair"],
    rejected_rewards: Float[Tensor, " pair"],
    margins: Float[Tensor, " pair"] | None = None,
    probabilities: Float[Tensor, " pair"] | None = None,
    *,
    center: Annotated[float, Field(ge=0, description="Weight of (r_w + r_l)^2, which keeps rewards around 0; 0.01 is usual")] = 0.0,
) -> LossOutput:
    """Sum over pairs of -log sigmoid(r_w - r_l - m) + center (r_w + r_l)^2; count: pairs. A difference of 1.5 costs .201, of -1.5 1.701.

    Ouyang et al. 2022, arXiv:2203.02155, equation 1, one pair a prompt. ``margins`` m >= 0, how much better the chosen answer is: Touvron
    et al. 2023 (Llama 2), arXiv:2307.09288, equation 2. ``center``: Eisenstein et al. 2023, arXiv:2312.09244, section 2. Deviation:
    ``probabilities`` = P(chosen is better) gives the loss expected over the label, the cross-entropy of a soft label; with a margin, the
    margin is asked of whichever is better.
    """
    differences = chosen_rewards - rejected_rewards
    offsets = 0.0 if margins is None else margins
    losses = expected_loss(-logsigmoid(differences - offsets), -logsigmoid(-differences - offsets), probabilities)
    if center > 0:
        losses = losses + center * (chosen_rewards + rejected_rewards).square()
    return LossOutput(losses.sum(), losses.numel(), pair_metrics((chosen_rewards, rejected_rewards)))
