import math

import pytest
import torch

from posttrain.objectives import bradley_terry_loss


def values(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def test_a_margin_of_one_and_a_half_costs_point_two_and_one_point_seven_the_wrong_way_round():
    right, wrong = (float(bradley_terry_loss(*rewards).loss_sum) for rewards in ((values(2.0), values(0.5)), (values(0.5), values(2.0))))
    assert (right, wrong) == (pytest.approx(math.log(1 + math.exp(-1.5))), pytest.approx(math.log(1 + math.exp(1.5))))
    assert (round(right, 4), round(wrong, 4)) == (0.2014, 1.7014)


def test_the_worked_example_rounds_the_probability_first():
    """sigmoid(1.5) = .82 and sigmoid(-1.5) = .18 to two digits: -log .82 = 0.20 and -log .18 = 1.71."""
    probabilities = [math.exp(-float(bradley_terry_loss(values(r), values(2.5 - r)).loss_sum)) for r in (2.0, 0.5)]
    assert [round(p, 2) for p in probabilities] == [0.82, 0.18]
    assert [round(-math.log(round(p, 2)), 2) for p in probabilities] == [0.20, 1.71]


def test_only_the_difference_counts():
    torch.testing.assert_close(
        bradley_terry_loss(values(2.0), values(0.5)).loss_sum, bradley_terry_loss(values(102.0), values(100.5)).loss_sum
    )


def test_a_margin_asks_for_that_much_more():
    asked = bradley_terry_loss(values(2.0), values(0.5), values(1.0)).loss_sum
    torch.testing.assert_close(asked, bradley_terry_loss(values(1.0), values(0.5)).loss_sum)


@pytest.mark.parametrize("probability", [0.3, 0.5, 0.95])
def test_a_soft_label_is_least_at_its_own_log_odds(probability):
    chosen = values(math.log(probability / (1 - probability))).requires_grad_()
    bradley_terry_loss(chosen, values(0.0), None, values(probability)).loss_sum.backward()
    assert float(chosen.grad) == pytest.approx(0.0, abs=1e-12)


def test_centring_adds_the_squared_sum_and_pulls_both_rewards_to_zero():
    chosen, rejected = values(3.0).requires_grad_(), values(2.0).requires_grad_()
    plain, centred = bradley_terry_loss(chosen, rejected), bradley_terry_loss(chosen, rejected, center=0.01)
    (centred.loss_sum - plain.loss_sum).backward()
    assert float((centred.loss_sum - plain.loss_sum).detach()) == pytest.approx(0.25)
    assert (float(chosen.grad), float(rejected.grad)) == (pytest.approx(0.1), pytest.approx(0.1))


def test_gradients_of_the_two_rewards_are_opposite():
    chosen, rejected = values(0.3, -2.0).requires_grad_(), values(1.0, -2.0).requires_grad_()
    bradley_terry_loss(chosen, rejected).loss_sum.backward()
    torch.testing.assert_close(chosen.grad, -rejected.grad)
    assert chosen.grad.tolist() == pytest.approx([-1 / (1 + math.exp(-0.7)), -0.5])


def test_accuracy_and_margin_are_watched():
    metrics = bradley_terry_loss(values(2.0, 0.0, 1.0), values(0.5, 3.0, 1.0)).metrics
    assert metrics == pytest.approx({"rewards/chosen": 3.0, "rewards/rejected": 4.5, "rewards/margin": -1.5, "rewards/accuracy": 1.5})
