import math

import pytest
import torch

from posttrain.errors import ConfigError
from posttrain.objectives import objectives, sft_loss


def test_two_tokens_of_probability_point_eight_and_point_four():
    out = sft_loss(torch.tensor([0.8, 0.4], dtype=torch.float64).log())
    assert float(out.loss_sum) == pytest.approx(-(math.log(0.8) + math.log(0.4)))
    assert round(float(out.loss_sum), 3) == 1.139
    assert round(float(out.loss_sum) / out.count, 3) == 0.570
    assert out.count == 2


def test_every_token_pulls_its_own_log_probability_up_equally():
    logprobs = torch.tensor([-0.5, -3.0, -7.0], requires_grad=True)
    sft_loss(logprobs).loss_sum.backward()
    assert logprobs.grad.tolist() == [-1.0, -1.0, -1.0]


def test_weights_scale_tokens_and_leave_the_count():
    logprobs = torch.tensor([-1.0, -2.0, -4.0], requires_grad=True)
    out = sft_loss(logprobs, torch.tensor([1.0, 0.5, 0.0]))
    out.loss_sum.backward()
    assert float(out.loss_sum.detach()) == 2.0  # 1 * 1 + 0.5 * 2 + 0 * 4
    assert out.count == 3
    assert logprobs.grad.tolist() == [-1.0, -0.5, 0.0]


def test_a_split_batch_adds_up_to_the_whole():
    logprobs = -torch.rand(17, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole, parts = sft_loss(logprobs), [sft_loss(part) for part in logprobs.split(5)]
    assert sum(float(part.loss_sum) for part in parts) == pytest.approx(float(whole.loss_sum), rel=1e-12)
    assert sum(part.count for part in parts) == whole.count


def test_nothing_supervised_counts_nothing_and_still_has_a_gradient():
    logprobs = torch.empty(0, requires_grad=True)
    out = sft_loss(logprobs)
    out.loss_sum.backward()
    assert (float(out.loss_sum.detach()), out.count) == (0.0, 0)


def test_the_objective_has_its_name_and_a_near_miss_is_suggested():
    assert objectives.get("sft") is sft_loss
    with pytest.raises(ConfigError, match="did you mean 'sft'"):
        objectives.get("stf")
