import pytest

from posttrain.errors import ConfigError
from posttrain.metrics import pass_at_k, precision_recall, wilson


def test_pass_at_k_of_five_samples_two_right():
    assert pass_at_k(5, 2, 1) == pytest.approx(0.4)
    assert pass_at_k(5, 2, 3) == pytest.approx(0.9)


def test_pass_at_k_counts_every_subset():
    from itertools import combinations

    right = [True, True, True, False, False, False, False]
    subsets = list(combinations(right, 4))
    assert pass_at_k(7, 3, 4) == pytest.approx(sum(any(subset) for subset in subsets) / len(subsets))


@pytest.mark.parametrize(("n", "c", "k"), [(5, 6, 1), (5, 2, 6), (5, 2, 0), (5, -1, 1)])
def test_pass_at_k_refuses_what_is_no_sample(n, c, k):
    with pytest.raises(ConfigError):
        pass_at_k(n, c, k)


def test_precision_and_recall_carry_wilson_intervals():
    result = precision_recall([True, True, True, False, False], [True, False, True, True, False])
    assert (result.precision.value, result.recall.value) == pytest.approx((2 / 3, 2 / 3))
    assert (result.precision.low, result.precision.high) == wilson(2, 3)


def test_precision_without_a_prediction_is_undefined_not_zero():
    result = precision_recall([False, False], [True, False])
    assert result.precision is None
    assert result.recall.value == 0
