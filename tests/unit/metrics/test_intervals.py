import math

import numpy as np
import pytest

from posttrain.errors import ConfigError
from posttrain.metrics import design_effect, effective_size, mean_interval, percentile_interval, proportion_interval, wilson


def coverage(draw, truth, runs):
    """Share of simulated intervals that hold the truth."""
    intervals = [draw() for _ in range(runs)]
    return np.mean([interval.low <= truth <= interval.high for interval in intervals])


def test_wilson_equals_the_worked_formula():
    # Centre (p + z^2/2n) / (1 + z^2/n) and half-width from p = .8, n = 10, z = 1.959964.
    z, p, n = 1.959963984540054, 0.8, 10
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    assert wilson(8, 10) == pytest.approx((centre - half, centre + half), abs=1e-12)


def test_wilson_of_no_failure_ends_at_one_and_starts_at_n_over_n_plus_z_squared():
    low, high = wilson(30, 30)
    assert high == 1.0
    assert low == pytest.approx(30 / (30 + 1.959963984540054**2))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_proportion_intervals_cover_at_their_level(rate):
    rng = np.random.default_rng(1)
    assert 0.93 <= coverage(lambda: proportion_interval(rng.random(120) < rate), rate, 2000) <= 0.97


@pytest.mark.parametrize("rate", [0.3, 0.8])
def test_proportion_intervals_cover_when_members_of_a_group_are_alike(rate):
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(40), 6).tolist()

    def draw():
        by_group = rng.beta(2 * rate, 2 * (1 - rate), size=40)
        return (rng.random((40, 6)) < by_group[:, None]).ravel()

    assert 0.93 <= coverage(lambda: proportion_interval(draw(), groups=groups), rate, 1500) <= 0.97
    ignored = coverage(lambda: proportion_interval(draw()), rate, 500)
    assert ignored < 0.85, "the same simulation without groups must show why they matter"


def test_mean_intervals_cover_for_skewed_values_in_groups():
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(30), 3).tolist()

    def draw():
        return (rng.exponential(size=30)[:, None] + rng.normal(size=(30, 3))).ravel()

    assert 0.92 <= coverage(lambda: mean_interval(draw(), groups=groups), 1.0, 300) <= 0.975


@pytest.mark.parametrize(("percent", "truth"), [(50, math.log(2)), (95, -math.log(0.05))])
def test_percentile_intervals_cover_at_least_their_level_on_a_skewed_distribution(percent, truth):
    rng = np.random.default_rng(4)
    assert 0.94 <= coverage(lambda: percentile_interval(rng.exponential(size=150), percent), truth, 600) <= 0.985


def test_p95_of_few_values_has_no_upper_bound():
    # P(all 71 values lie below the true p95) = .95^71 > .025, so no order statistic bounds it; with 72 it falls below.
    assert percentile_interval(np.arange(71.0), 95).high == math.inf
    assert percentile_interval(np.arange(72.0), 95).high == 71.0
    assert 0.95**71 > 0.025 > 0.95**72


def test_design_effect_of_identical_members_is_the_group_size():
    values = np.repeat([0.0, 1.0] * 50, 4)
    groups = np.repeat(np.arange(100), 4).tolist()
    # Cluster-robust over simple variance: m * G / (G - 1) with m = 4, G = 100.
    assert design_effect(values, groups) == pytest.approx(4 * 100 / 99)


def test_design_effect_never_narrows():
    alternating = [0.0, 1.0] * 50
    assert design_effect(alternating, np.repeat(np.arange(50), 2).tolist()) == 1.0


def test_groups_without_any_variation_count_as_one_draw_each():
    values, groups = [1.0] * 2000, ["a"] * 1000 + ["b"] * 1000
    assert design_effect(values, groups) == 1000
    assert effective_size(values, groups) == 2
    # Wilson's lower bound of 2 of 2 with Student's t of one degree of freedom, 12.706: 2 / (2 + t^2).
    assert proportion_interval(values, groups=groups).low == pytest.approx(2 / (2 + 12.7062047**2))
    assert effective_size([1.0] * 10, list("aaaabbcdef")) == pytest.approx(100 / (16 + 4 + 4))  # Kish: n^2 over squared sizes


def test_few_groups_that_vary_leave_the_design_effect_uncertain():
    groups = np.repeat(np.arange(30), 10).tolist()
    one = [0.0] + [1.0] * 299
    # One residual total is nearly all there is, so the estimate is about one; one telling group against half of one with full effect 10.
    assert design_effect(one, groups) == pytest.approx(1.0, abs=0.05)
    assert effective_size(one, groups) == pytest.approx(300 / ((design_effect(one, groups) + 5) / 1.5))


@pytest.mark.parametrize("correlation", [0.0, 0.05, 0.5, 1.0])
@pytest.mark.parametrize("rate", [0.9, 0.97])
def test_lower_bounds_of_nearly_uniform_groups_hold(rate, correlation):
    """30 groups of 10 whose members are alike by ``correlation``: the bound a gate reads is above the truth in at most 1 of 25 draws."""
    rng = np.random.default_rng(9)
    groups = np.repeat(np.arange(30), 10).tolist()
    lows = [proportion_interval(alike(rng, 30, 10, rate, correlation), groups=groups).low for _ in range(600)]
    assert np.mean([low > rate for low in lows]) <= 0.04


def alike(rng, num_groups, size, rate, correlation):
    """Zeros and ones at ``rate``: beta-binomial groups with this correlation between members."""
    if correlation == 0:
        by_group = np.full(num_groups, rate)
    elif correlation == 1:
        by_group = (rng.random(num_groups) < rate).astype(float)
    else:
        spread = (1 - correlation) / correlation
        by_group = rng.beta(rate * spread, (1 - rate) * spread, num_groups)
    return (rng.random((num_groups, size)) < by_group[:, None]).ravel().astype(float)


def test_groups_of_one_change_nothing():
    values = [1.0, 0.0, 1.0, 1.0]
    assert proportion_interval(values, groups=list("abcd")) == proportion_interval(values)


def test_a_mean_over_two_groups_has_the_width_of_students_t():
    """Means 1 and 3: standard error 1, one degree of freedom, 12.706 at 95 %."""
    found = mean_interval([1.0, 3.0])
    assert (found.low, found.high) == (pytest.approx(2 - 12.706, abs=1e-3), pytest.approx(2 + 12.706, abs=1e-3))


def test_a_mean_over_a_single_group_is_unbounded():
    interval = mean_interval([0.1, 0.9, 0.4], groups=["a", "a", "a"])
    assert (interval.low, interval.high) == (-math.inf, math.inf)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_values_that_are_no_scores_are_refused(values):
    with pytest.raises(ConfigError):
        mean_interval(values)


def test_a_proportion_of_anything_but_zeros_and_ones_is_refused():
    with pytest.raises(ConfigError, match="zeros and ones"):
        proportion_interval([0.0, 0.5])


def test_groups_with_equal_means_leave_an_interval_of_the_values():
    values, groups = [0.0, 2.0, 0.0, 2.0, 0.0, 2.0], ["a", "a", "b", "b", "c", "c"]
    grouped, alone = mean_interval(values, groups=groups), mean_interval(values)
    assert (grouped.value, grouped.low, grouped.high) == (alone.value, alone.low, alone.high)
    assert grouped.low < 1 < grouped.high
