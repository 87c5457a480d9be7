import pytest
import torch

from posttrain.objectives import ipo_loss


def values(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def test_as_published_the_margin_of_sums_is_drawn_to_half_over_tau():
    """h = (-3 + 4) - (-2 + 4.5) = -1.5; tau = .25 asks for 2: (-1.5 - 2)^2 = 12.25, whatever the lengths."""
    arguments = values(-3.0), values(-2.0), values(-4.0), values(-4.5)
    short = ipo_loss(*arguments, torch.tensor([1]), torch.tensor([1]), beta=0.25)
    long = ipo_loss(*arguments, torch.tensor([50]), torch.tensor([7]), beta=0.25)
    assert float(short.loss_sum) == float(long.loss_sum) == 12.25


def test_averaged_it_compares_log_ratios_a_token():
    """(1 / 4) - (2.5 / 5) = -.25; tau = .5 asks for 1: 1.25^2."""
    out = ipo_loss(
        values(-3.0), values(-2.0), values(-4.0), values(-4.5), torch.tensor([4]), torch.tensor([5]), beta=0.5, average_logps=True
    )
    assert float(out.loss_sum) == pytest.approx(1.25**2)


def test_at_the_reference_the_loss_is_the_squared_target():
    same = values(-5.0, -9.0)
    out = ipo_loss(same, same, same, same, torch.tensor([3, 3]), torch.tensor([3, 3]), beta=0.1)
    assert float(out.loss_sum) / out.count == pytest.approx(25.0)


def test_beyond_the_target_it_pulls_back_which_dpo_never_does():
    chosen = values(0.0).requires_grad_()
    ipo_loss(chosen, values(-10.0), values(0.0), values(0.0), torch.tensor([1]), torch.tensor([1]), beta=0.1).loss_sum.backward()
    assert float(chosen.grad) == pytest.approx(2 * (10 - 5))


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.8])
def test_a_soft_label_moves_the_target_to_twice_its_excess_over_one_half(probability):
    """p (h-t)^2 + (1-p) (h+t)^2 is least at h = (2p - 1) t."""
    target = (2 * probability - 1) * 5.0
    chosen = values(-20.0 + target).requires_grad_()
    lengths = torch.tensor([1])
    ipo_loss(chosen, values(-20.0), values(-20.0), values(-20.0), lengths, lengths, values(probability), beta=0.1).loss_sum.backward()
    assert float(chosen.grad) == pytest.approx(0.0, abs=1e-12)
