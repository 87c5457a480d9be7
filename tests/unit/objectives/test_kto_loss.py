import math

import pytest
import torch

from posttrain.objectives import kto_loss

GOOD_AND_BAD = torch.tensor([True, False])


def values(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def scalar(number):
    return torch.tensor(number, dtype=torch.float64)


def sigmoid(number):
    return 1 / (1 + math.exp(-number))


def test_at_the_reference_without_drift_every_answer_costs_half_its_weight():
    same = values(-5.0, -9.0)
    out = kto_loss(same, same, GOOD_AND_BAD, scalar(0.0), desirable_weight=1.5, undesirable_weight=0.7)
    assert float(out.loss_sum) == pytest.approx(0.5 * (1.5 + 0.7))
    assert out.count == 2


def test_value_of_a_good_and_a_bad_answer():
    """r = 1 and -2, z = .5, beta = 1: 1 - sigmoid(1 - .5) and 1 - sigmoid(.5 + 2)."""
    out = kto_loss(values(-4.0, -8.0), values(-5.0, -6.0), GOOD_AND_BAD, scalar(0.5), beta=1.0)
    assert float(out.loss_sum) == pytest.approx((1 - sigmoid(0.5)) + (1 - sigmoid(2.5)))


def test_good_answers_are_pushed_up_and_bad_ones_down_by_their_weights():
    """Gradient of 1 - sigmoid(beta u): -beta s (1 - s); at u = 0 a quarter of beta."""
    policy = values(-5.0, -5.0).requires_grad_()
    kto_loss(policy, values(-5.0, -5.0), GOOD_AND_BAD, scalar(0.0), beta=0.2, desirable_weight=2.0).loss_sum.backward()
    assert policy.grad.tolist() == pytest.approx([-2.0 * 0.2 / 4, 0.2 / 4])


def test_a_negative_drift_estimate_counts_as_zero():
    same = values(-5.0, -9.0)
    low, zero = (kto_loss(same, same, GOOD_AND_BAD, scalar(drift)) for drift in (-3.0, 0.0))
    assert float(low.loss_sum) == float(zero.loss_sum)


def test_no_gradient_flows_through_the_drift():
    drift = scalar(0.4).requires_grad_()
    policy = values(-5.0, -9.0).requires_grad_()
    kto_loss(policy, values(-4.0, -9.5), GOOD_AND_BAD, drift).loss_sum.backward()
    assert drift.grad is None


def test_drift_makes_good_answers_dearer_and_bad_ones_cheaper():
    same = values(-5.0)
    for label, sign in ((True, 1), (False, -1)):
        with_drift, without = (kto_loss(same, same, torch.tensor([label]), scalar(drift), beta=1.0) for drift in (2.0, 0.0))
        assert sign * (float(with_drift.loss_sum) - float(without.loss_sum)) > 0


def test_one_kind_of_label_alone_is_fine():
    same = values(-5.0, -9.0)
    out = kto_loss(same, same, torch.tensor([False, False]), scalar(0.0))
    assert (out.metrics["desirable"], out.metrics["undesirable"], out.metrics["logps/chosen"]) == (0.0, 2.0, 0.0)
    assert out.metrics["logps/rejected"] == -14.0


def test_far_off_answers_keep_a_gradient_in_float32():
    """At beta u = 30 the loss is exp(-30): 1 - sigmoid would round to 0 with the wrong gradient."""
    policy = torch.tensor([0.0], requires_grad=True)
    out = kto_loss(policy, torch.tensor([-300.0]), torch.tensor([True]), torch.tensor(0.0), beta=0.1)
    out.loss_sum.backward()
    assert float(out.loss_sum.detach()) == pytest.approx(math.exp(-30), rel=1e-5)
    assert float(policy.grad) == pytest.approx(-0.1 * math.exp(-30), rel=1e-5)
