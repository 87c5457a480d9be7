"""The distance to the reference: what the estimators estimate, and what the controllers do with it."""

import math

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from posttrain.objectives import AdaptiveKl, FixedKl, KlController, kl_per_token


def expectation(estimator, policy, reference):
    """The estimator's exact expectation under the policy, over a vocabulary of a few words."""
    policy, reference = torch.tensor(policy).double(), torch.tensor(reference).double()
    return float((policy * kl_per_token(policy.log(), reference.log(), estimator=estimator)).sum())


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_k1_and_k3_have_the_kl_as_their_expectation(estimator):
    policy, reference = [0.6, 0.3, 0.1], [0.2, 0.5, 0.3]
    kl = 0.6 * math.log(3) + 0.3 * math.log(0.6) + 0.1 * math.log(1 / 3)
    assert expectation(estimator, policy, reference) == pytest.approx(kl, rel=1e-6)


def test_k2_agrees_to_second_order_and_is_biased_beyond():
    near, far = [0.51, 0.49], [0.9, 0.1]
    reference = [0.5, 0.5]
    kl = {name: sum(p * math.log(p / 0.5) for p in policy) for name, policy in (("near", near), ("far", far))}
    assert expectation("k2", near, reference) == pytest.approx(kl["near"], rel=0.02)
    assert abs(expectation("k2", far, reference) / kl["far"] - 1) > 0.1


def test_the_sampled_token_of_the_sources_moves_from_one_fifth_to_three_fifths():
    """delta = log .6 - log .2 = log 3."""
    found = kl_per_token(torch.tensor([0.6]).log(), torch.tensor([0.2]).log())
    assert float(found) == pytest.approx(math.log(3), rel=1e-6)


def test_k2_and_k3_are_never_negative_and_all_are_zero_at_the_reference():
    logprobs = torch.linspace(-8, -0.1, 50)
    for estimator in ("k2", "k3"):
        assert (kl_per_token(logprobs, logprobs.flip(0), estimator=estimator) >= 0).all()
    for estimator in ("k1", "k2", "k3"):
        assert not kl_per_token(logprobs, logprobs, estimator=estimator).any()


def test_k3_keeps_small_distances_that_a_plain_difference_would_lose():
    distance = 1e-4
    found = kl_per_token(torch.tensor([-1.0]), torch.tensor([-1.0 - distance]), estimator="k3")
    assert float(found) == pytest.approx(distance**2 / 2, rel=0.05, abs=1e-10)


def test_fixed_stays():
    assert FixedKl(coefficient=0.1).after(0.1, 50.0) == 0.1


@pytest.mark.parametrize(("kl", "factor"), [(6.0, 1.0), (6.6, 1.01), (60.0, 1.02), (0.0, 0.98), (5.7, 0.995)])
def test_adaptive_moves_by_a_tenth_of_the_clipped_error(kl, factor):
    assert AdaptiveKl(target=6.0).after(0.2, kl) == pytest.approx(0.2 * factor)


def test_adaptive_settles_where_the_distance_is_the_target():
    """A policy whose distance is 1 / beta: the coefficient must end at 1 / target."""
    controller = AdaptiveKl(coefficient=0.01, target=4.0)
    coefficient = controller.coefficient
    for _ in range(1000):
        coefficient = controller.after(coefficient, 1 / coefficient)
    assert 1 / coefficient == pytest.approx(4.0, rel=0.01)


def test_a_recipe_chooses_by_name_and_wrong_bounds_are_refused():
    adapter = TypeAdapter(KlController)
    assert adapter.validate_python({"name": "adaptive", "target": 3}) == AdaptiveKl(target=3)
    assert adapter.validate_python({"name": "fixed"}) == FixedKl()
    for wrong in ({"name": "fixed", "coefficient": -1}, {"name": "adaptive", "target": 0}, {"name": "other"}):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)
