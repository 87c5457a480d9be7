import math

import pytest
import torch

from posttrain.objectives import simpo_loss


def values(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def test_rewards_are_averages_scaled_by_beta_less_the_margin():
    """beta 2, averages -.5 and -1.25: rewards -1 and -2.5, difference 1.5, margin 1: -log sigmoid(.5)."""
    out = simpo_loss(values(-2.0), values(-5.0), torch.tensor([4]), torch.tensor([4]), beta=2.0, gamma=1.0)
    assert float(out.loss_sum) == pytest.approx(math.log(1 + math.exp(-0.5)))
    assert (out.metrics["rewards/chosen"], out.metrics["rewards/rejected"]) == (-1.0, -2.5)


def test_length_alone_changes_nothing():
    """The same average: a completion twice as long with twice the log-probability."""
    short = simpo_loss(values(-2.0), values(-5.0), torch.tensor([4]), torch.tensor([4]))
    long = simpo_loss(values(-4.0), values(-5.0), torch.tensor([8]), torch.tensor([4]))
    torch.testing.assert_close(short.loss_sum, long.loss_sum)


def test_a_longer_completion_is_pushed_less_per_log_probability():
    chosen, rejected = values(-4.0).requires_grad_(), values(-4.0).requires_grad_()
    simpo_loss(chosen, rejected, torch.tensor([2]), torch.tensor([8])).loss_sum.backward()
    assert float(chosen.grad) / float(rejected.grad) == pytest.approx(-4.0)


def test_at_a_tie_only_the_margin_is_missing():
    out = simpo_loss(values(-4.0), values(-4.0), torch.tensor([4]), torch.tensor([4]), gamma=1.0)
    assert float(out.loss_sum) == pytest.approx(math.log(1 + math.e))
