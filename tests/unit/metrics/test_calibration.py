import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import spearmanr, t

from posttrain.errors import ConfigError
from posttrain.metrics import (
    calibration_error_by_chance,
    expected_calibration_error,
    fit_temperature,
    rank_correlation,
    reliability_bins,
    wilson,
)


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x)))


def simulate(rng, count, *, temperature, spread=2.0):
    """Reward differences and the labels people would give if P(first is better) were sigmoid(difference / temperature)."""
    differences = rng.normal(0, spread, count)
    return differences, (rng.random(count) < sigmoid(differences / temperature)).astype(float)


def test_calibration_error_is_the_weighted_gap():
    # Bin .9: stated .95, right half of the time, weight 2/4; bin .1: stated .15 and never right, weight 2/4.
    assert expected_calibration_error([0.95, 0.95, 0.15, 0.15], [1, 0, 0, 0]) == pytest.approx(0.5 * 0.45 + 0.5 * 0.15)


def test_the_error_of_a_perfect_predictor_is_chance_alone():
    """One bin, stated .5, n = 400: the error is |mean - .5|, a half normal of sd .5 / 20, so its mean is .025 sqrt(2 / pi)."""
    mean, high = calibration_error_by_chance([0.5] * 400)
    assert mean == pytest.approx(0.025 * math.sqrt(2 / math.pi), rel=0.1)
    assert high == pytest.approx(0.025 * 1.96, rel=0.1)


def test_reliability_bins_hold_every_pair_once():
    stated, right = [0.5, 0.52, 0.97, 1.0], [1, 0, 1, 1]
    first, last = reliability_bins(stated, right, low=0.5)
    assert (first.low, first.high, first.count, first.stated, first.observed) == pytest.approx((0.5, 0.55, 2, 0.51, 0.5))
    assert (last.low, last.high, last.count, last.stated, last.observed) == pytest.approx((0.95, 1.0, 2, 0.985, 1.0))
    assert (first.observed_low, first.observed_high) == wilson(1, 2)


def test_two_kinds_of_pairs_have_a_temperature_in_closed_form():
    """Differences of 2, three of four as labelled: sigmoid(2 / T) = 3 / 4, so T = 2 / log 3."""
    found = fit_temperature([2.0, 2.0, 2.0, 2.0], [1, 1, 1, 0])
    assert found.value == pytest.approx(2 / math.log(3))
    assert found.loss_after == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    # information about 1 / T: sum of d^2 p (1 - p) = 4 * 4 * 3 / 16 = 3
    slope, half = math.log(3) / 2, 1.959964 / math.sqrt(3)
    assert found.low == pytest.approx(1 / (slope + half), rel=1e-6)
    assert found.high == math.inf  # slope - half < 0: these four pairs cannot exclude that differences say nothing


def test_a_soft_label_is_a_share_of_hard_ones():
    hard = fit_temperature([2.0] * 4, [1, 1, 1, 0])
    soft = fit_temperature([2.0] * 4, [0.75] * 4)
    assert (soft.value, soft.low) == pytest.approx((hard.value, hard.low))


def test_the_fit_is_the_minimum_scipy_finds_whatever_the_scale():
    rng = np.random.default_rng(0)
    differences, labels = simulate(rng, 300, temperature=1.7)
    for scale in (1e-4, 1.0, 1e4):
        d = differences * scale

        def loss(log_t, d=d):
            x = d / math.exp(log_t)
            return float((labels * np.logaddexp(0, -x) + (1 - labels) * np.logaddexp(0, x)).mean())

        best = minimize_scalar(loss, bounds=(math.log(scale) - 3, math.log(scale) + 3), method="bounded", options={"xatol": 1e-10})
        found = fit_temperature(d, labels)
        assert found.value == pytest.approx(math.exp(best.x), rel=1e-5)
        assert found.loss_after <= best.fun + 1e-12


def test_known_temperatures_are_covered_by_95_percent_intervals_95_times_in_100():
    rng = np.random.default_rng(1)
    runs, inside = 1000, 0
    for _ in range(runs):
        found = fit_temperature(*simulate(rng, 300, temperature=3.0))
        inside += found.low <= 3.0 <= found.high
    assert 0.93 <= inside / runs <= 0.97


def test_a_group_of_one_pair_copied_counts_as_one_pair():
    """Sandwich of k copies in each of G groups: H and the totals both grow by k, so the error is that of single pairs."""
    rng = np.random.default_rng(6)
    differences, labels = simulate(rng, 60, temperature=3.0)
    groups = list(range(60)) * 5
    naive = fit_temperature(np.tile(differences, 5), np.tile(labels, 5))
    found = fit_temperature(np.tile(differences, 5), np.tile(labels, 5), groups=groups)
    chance = sigmoid(differences / found.value)
    information = float((differences**2 * chance * (1 - chance)).sum())
    totals = float(((differences * (labels - chance)) ** 2).sum())
    error = math.sqrt(totals * 60 / 59) / information  # of 1 / T
    assert 1 / found.low - 1 / found.value == pytest.approx(float(t.ppf(0.975, 59)) * error, rel=1e-6)
    assert naive.value == found.value
    assert found.low < naive.low < naive.high < found.high


def test_intervals_cover_known_temperatures_of_grouped_pairs_and_ignoring_the_groups_does_not():
    rng, runs, groups = np.random.default_rng(7), 400, np.repeat(np.arange(60), 5)
    inside, ignored = 0, 0
    for _ in range(runs):
        differences, labels = (np.repeat(values, 5) for values in simulate(rng, 60, temperature=3.0))
        found, naive = (fit_temperature(differences, labels, groups=each) for each in (groups.tolist(), None))
        inside += found.low <= 3.0 <= found.high
        ignored += naive.low <= 3.0 <= naive.high
    assert 0.93 <= inside / runs <= 0.99
    assert ignored / runs < 0.75


def test_groups_of_one_change_nothing_and_a_single_group_says_nothing():
    differences, labels = simulate(np.random.default_rng(8), 40, temperature=2.0)
    assert fit_temperature(differences, labels, groups=list(range(40))) == fit_temperature(differences, labels)
    found = fit_temperature(differences, labels, groups=[0] * 40)
    assert (found.low, found.high) == (0.0, math.inf)


def test_the_fitted_temperature_removes_the_calibration_error_on_other_pairs():
    rng = np.random.default_rng(2)
    found = fit_temperature(*simulate(rng, 2000, temperature=4.0))
    differences, labels = simulate(rng, 4000, temperature=4.0)

    def error(temperature):
        confidence = sigmoid(np.abs(differences) / temperature)
        return expected_calibration_error(confidence, np.where(differences > 0, labels, 1 - labels), num_bins=20), confidence

    before, _ = error(1.0)
    after, confidence = error(found.value)
    _, chance = calibration_error_by_chance(confidence, num_bins=20)
    assert before > 0.15 > chance > after


@pytest.mark.parametrize(
    ("differences", "labels", "reason"),
    [([1.0, 2.0, 3.0], [1, 1, 1], "every pair is ordered as labelled"), ([1.0, 2.0, -1.0], [0, 0, 1], "the order of the pairs")],
)
def test_a_temperature_that_cannot_be_estimated_says_why(differences, labels, reason):
    found = fit_temperature(differences, labels)
    assert reason in found.bounded
    assert found.value == math.inf or (found.value < 0.1 and found.low == 0)


@pytest.mark.parametrize("differences", [[0.0, 0.0], [], [float("nan"), 1.0]])
def test_differences_that_mean_nothing_are_refused(differences):
    with pytest.raises(ConfigError):
        fit_temperature(differences)


@pytest.mark.parametrize(("stated", "right"), [([0.4], [1]), ([0.6, 0.7], [1]), ([], []), ([0.6], [2])])
def test_bins_refuse_what_is_no_probability(stated, right):
    with pytest.raises(ConfigError):
        reliability_bins(stated, right, low=0.5)


def test_rank_correlation_is_spearmans_with_ties():
    rng = np.random.default_rng(3)
    a = rng.integers(0, 5, 50)
    b = a + rng.integers(0, 8, 50)
    assert rank_correlation(a, b).value == pytest.approx(spearmanr(a, b).statistic)


def test_rank_correlation_intervals_cover_the_truth():
    """For a bivariate normal of correlation r, Spearman's rho is 6 / pi arcsin(r / 2) (Pearson 1907)."""
    rng, runs, r = np.random.default_rng(4), 1000, 0.6
    truth, inside = 6 / math.pi * math.asin(r / 2), 0
    for _ in range(runs):
        a = rng.normal(size=60)
        found = rank_correlation(a, r * a + math.sqrt(1 - r * r) * rng.normal(size=60))
        inside += found.low <= truth <= found.high
    assert 0.93 <= inside / runs <= 0.97


def test_values_copied_within_their_group_do_not_narrow_the_interval_of_a_rank_correlation():
    rng, widths = np.random.default_rng(9), []
    for _ in range(5):
        a = rng.normal(size=50)
        b = 0.5 * a + rng.normal(size=50)
        copies = np.tile(a, 4), np.tile(b, 4)
        every = rank_correlation(a, b), rank_correlation(*copies, groups=list(range(50)) * 4), rank_correlation(*copies)
        assert every[0].value == pytest.approx(every[1].value)
        widths.append([found.high - found.low for found in every])
    single, grouped, ignored = np.mean(widths, axis=0)
    assert grouped == pytest.approx(single, rel=0.15)
    assert ignored == pytest.approx(single / 2, rel=0.1)  # four times the values
    found = rank_correlation([1, 2, 3, 4], [1, 3, 2, 4], groups=[0] * 4)
    assert (found.low, found.high) == (-1, 1)


@pytest.mark.parametrize(("first", "second"), [([1, 2, 3], [1, 2, 3]), ([1, 1, 1, 1], [1, 2, 3, 4]), ([1, 2, 3, 4], [1, 2, 3])])
def test_rank_correlation_refuses_what_does_not_vary(first, second):
    with pytest.raises(ConfigError):
        rank_correlation(first, second)
