import math

import pytest
import torch

from posttrain.objectives import orpo_loss


def values(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def test_odds_of_point_eight_and_point_two():
    """Single tokens of probability .8 and .2: odds 4 and 1/4, ratio 16; -log .8 - .1 log(16/17)."""
    one = torch.tensor([1])
    out = orpo_loss(values(math.log(0.8)), values(math.log(0.2)), one, one, beta=0.1)
    assert float(out.loss_sum) == pytest.approx(-math.log(0.8) - 0.1 * math.log(16 / 17))
    assert out.metrics["log_odds_ratio"] == pytest.approx(math.log(16))
    assert out.metrics["nll"] == pytest.approx(-math.log(0.8))


def test_probabilities_are_averaged_over_tokens():
    """Two tokens at .9 and .4 have the geometric mean .6."""
    two = orpo_loss(values(math.log(0.9 * 0.4)), values(math.log(0.2)), torch.tensor([2]), torch.tensor([1]))
    one = orpo_loss(values(math.log(0.6)), values(math.log(0.2)), torch.tensor([1]), torch.tensor([1]))
    torch.testing.assert_close(two.loss_sum, one.loss_sum)


def test_without_the_odds_term_it_is_the_likelihood_of_the_chosen_answer():
    chosen, rejected = values(-6.0).requires_grad_(), values(-8.0).requires_grad_()
    out = orpo_loss(chosen, rejected, torch.tensor([3]), torch.tensor([4]), beta=0.0)
    out.loss_sum.backward()
    assert float(out.loss_sum.detach()) == 2.0
    assert (float(chosen.grad), float(rejected.grad)) == (pytest.approx(-1 / 3), 0.0)


@pytest.mark.parametrize("log_probability", [-1e-2, -1e-4, -1e-6, -30.0, -80.0])
def test_float32_agrees_with_float64_near_certainty_and_far_from_it(log_probability):
    one = torch.tensor([1])
    single = torch.tensor([log_probability], requires_grad=True)
    double = single.detach().double().requires_grad_()
    out = [orpo_loss(value, torch.full_like(value, -1.0), one, one, beta=1.0) for value in (single, double)]
    for loss in out:
        loss.loss_sum.backward()
    assert float(out[0].loss_sum.detach()) == pytest.approx(float(out[1].loss_sum.detach()), rel=1e-6)
    assert float(single.grad) == pytest.approx(float(double.grad), rel=1e-5)


def test_certainty_on_both_sides_is_a_tie_not_a_nan():
    one = torch.tensor([1])
    out = orpo_loss(torch.tensor([0.0]), torch.tensor([0.0]), one, one, beta=1.0)
    assert float(out.loss_sum) == pytest.approx(math.log(2))
