import math

import pytest
import torch

from posttrain.objectives import dpo_loss, robust_dpo_loss


def logps(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_loss_is_log_two_when_policy_equals_reference():
    same = logps(-5.0, -9.0)
    out = dpo_loss(same, same, same, same, beta=0.1)
    torch.testing.assert_close(out.loss_sum / out.count, torch.tensor(math.log(2), dtype=torch.float64))
    assert out.metrics["rewards/margin"] == 0.0


def test_margin_of_probabilities_point_six_and_point_two_is_log_three():
    out = dpo_loss(logps(math.log(0.6)), logps(math.log(0.2)), logps(0.0), logps(0.0), beta=1.0)
    assert out.metrics["rewards/margin"] == pytest.approx(math.log(3))
    assert float(out.loss_sum) == pytest.approx(-math.log(0.75))  # sigmoid(log 3) = 3/4


@pytest.mark.parametrize("beta", [0.01, 0.1, 2.0])
def test_gradient_is_beta_times_the_estimated_chance_of_a_wrong_order_with_its_signs(beta):
    """arXiv:2305.18290, section 4: -beta sigmoid(r_l - r_w) on the chosen, + on the rejected; the reference has the opposite signs."""
    values = [value.requires_grad_() for value in (logps(-3.0), logps(-2.0), logps(-4.0), logps(-4.5))]
    dpo_loss(*values, beta=beta).loss_sum.backward()
    wrong = 1 / (1 + math.exp(beta * ((-3.0 + 4.0) - (-2.0 + 4.5))))
    signs = [-1, 1, 1, -1]
    for value, sign in zip(values, signs, strict=True):
        assert float(value.grad) == pytest.approx(sign * beta * wrong)


def test_the_reference_only_matters_through_the_difference():
    chosen, rejected = logps(-3.0), logps(-2.0)
    near = dpo_loss(chosen, rejected, logps(-4.0), logps(-4.5))
    far = dpo_loss(chosen, rejected, logps(-104.0), logps(-104.5))
    torch.testing.assert_close(near.loss_sum, far.loss_sum)


def test_label_smoothing_is_the_soft_label_one_minus_epsilon():
    arguments = logps(-3.0, -7.0), logps(-2.0, -7.5), logps(-4.0, -6.0), logps(-4.5, -8.0)
    smoothed = dpo_loss(*arguments, label_smoothing=0.1, beta=0.5).loss_sum
    torch.testing.assert_close(smoothed, dpo_loss(*arguments, logps(0.9, 0.9), beta=0.5).loss_sum)


def test_a_smoothed_soft_label_lies_between_the_label_and_one_half():
    """Flipping a label of probability .8 with rate .1 leaves .8 * .9 + .2 * .1 = .74."""
    arguments = logps(-3.0), logps(-2.0), logps(-4.0), logps(-4.5)
    both = dpo_loss(*arguments, logps(0.8), label_smoothing=0.1).loss_sum
    torch.testing.assert_close(both, dpo_loss(*arguments, logps(0.74)).loss_sum)


@pytest.mark.parametrize("probability", [0.2, 0.5, 0.9])
def test_a_soft_label_is_least_where_the_implied_probability_equals_it(probability):
    """sigmoid(beta delta) = p: the loss is a cross-entropy, so a soft label stops pushing once the policy agrees with it."""
    beta, delta = 0.3, math.log(probability / (1 - probability)) / 0.3
    chosen = logps(-8.0 + delta).requires_grad_()
    dpo_loss(chosen, logps(-8.0), logps(-8.0), logps(-8.0), logps(probability), beta=beta).loss_sum.backward()
    assert float(chosen.grad) == pytest.approx(0.0, abs=1e-12)


def test_robust_dpo_without_flips_is_dpo():
    arguments = logps(-3.0, -7.0), logps(-2.0, -7.5), logps(-4.0, -6.0), logps(-4.5, -8.0)
    torch.testing.assert_close(robust_dpo_loss(*arguments, label_smoothing=0.0).loss_sum, dpo_loss(*arguments).loss_sum)


@pytest.mark.parametrize("flips", [0.1, 0.4])
def test_robust_dpo_on_flipped_labels_is_unbiased_for_dpo_on_clean_ones(flips):
    """E over the flip of the robust loss = (1-e) L_rob(w, l) + e L_rob(l, w) = L(w, l)."""
    chosen, rejected, ref_chosen, ref_rejected = logps(-3.0, -9.0), logps(-2.0, -3.5), logps(-4.0, -6.0), logps(-4.5, -8.0)
    kept = robust_dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta=0.5, label_smoothing=flips).loss_sum
    flipped = robust_dpo_loss(rejected, chosen, ref_rejected, ref_chosen, beta=0.5, label_smoothing=flips).loss_sum
    clean = dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta=0.5).loss_sum
    torch.testing.assert_close((1 - flips) * kept + flips * flipped, clean)


def test_robust_dpo_pushes_harder_than_dpo_where_it_is_sure():
    """Its gradient is -beta (sigmoid(-z) + e/(1-2e)): it never dies out, so the margin has no bound."""
    chosen = logps(50.0 - 60.0).requires_grad_()
    robust_dpo_loss(chosen, logps(-60.0), logps(-10.0), logps(-10.0), beta=1.0, label_smoothing=0.1).loss_sum.backward()
    assert float(chosen.grad) == pytest.approx(-0.1 / 0.8, rel=1e-6)
