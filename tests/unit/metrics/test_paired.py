import math

import numpy as np
import pytest

from posttrain.metrics import Interval, newcombe_difference, non_inferiority, paired_difference, ratio_difference

TRUTH = 0.4 * 0.2 - 0.6 * 0.1


def versions(rng, shape, broken=0.1, mended=0.2):
    """Baseline right with p = .6; the candidate breaks some of those and mends some others."""
    before = rng.random(shape) < 0.6
    chance = rng.random(shape)
    return np.where(before, chance > broken, chance < mended), before


def test_paired_differences_cover_at_their_level():
    rng = np.random.default_rng(5)
    hits = [i.low <= TRUTH <= i.high for i in (paired_difference(*versions(rng, 150)) for _ in range(2000))]
    assert 0.93 <= np.mean(hits) <= 0.97


def test_paired_differences_cover_when_groups_rise_and_fall_together():
    rng = np.random.default_rng(6)
    groups = np.repeat(np.arange(40), 6).tolist()
    hits = []
    for _ in range(1500):
        after, before = versions(rng, (40, 6), rng.beta(1, 9, (40, 1)), rng.beta(2, 8, (40, 1)))
        interval = paired_difference(after.ravel(), before.ravel(), groups=groups)
        hits.append(interval.low <= TRUTH <= interval.high)
    assert 0.93 <= np.mean(hits) <= 0.975


def test_newcombe_covers_at_its_level():
    rng = np.random.default_rng(7)
    hits = []
    for _ in range(2000):
        after, before = versions(rng, 150)
        cells = [int((a & b).sum()) for a, b in ((after, before), (after, ~before), (~after, before), (~after, ~before))]
        interval = newcombe_difference(*cells)
        hits.append(interval.low <= TRUTH <= interval.high)
    assert 0.93 <= np.mean(hits) <= 0.97


def test_newcombe_gives_the_published_example():
    # Newcombe 1998, table III, method 10 with cells 36, 12, 2, 0: difference .2, interval .0569 to .3404.
    interval = newcombe_difference(36, 12, 2, 0)
    assert interval.value == pytest.approx(0.2)
    assert (interval.low, interval.high) == pytest.approx((0.0569, 0.3404), abs=5e-5)


def test_identical_versions_keep_an_interval_of_honest_width():
    # Agresti-Min with no discordant pair: half a pair each way over n + 2, so +- z sqrt(1) / (n + 2).
    interval = paired_difference(np.ones(100), np.ones(100))
    assert interval.value == 0
    assert (interval.low, interval.high) == pytest.approx((-1.959964 / 102, 1.959964 / 102), rel=1e-5)


def test_differences_of_fractions_are_those_of_the_means():
    interval = paired_difference([0.5, 0.75, 1.0, 0.25] * 10, [0.5, 0.5, 0.5, 0.5] * 10)
    assert interval.value == pytest.approx(0.125)
    assert interval.low < 0.125 < interval.high


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.01, 0.05, "non_inferior"),
        (-0.02, 0.0, "non_inferior"),
        (-0.019, -0.001, "non_inferior"),
        (-0.03, 0.01, "inconclusive"),
        (-0.09, -0.01, "inferior"),
        (math.nan, math.nan, "inconclusive"),
    ],
)
def test_non_inferiority_reads_the_interval_against_the_margin(low, high, expected):
    assert non_inferiority(Interval(0.0, low, high, 100, 0.95, ""), 0.02) == expected


def test_a_truly_inferior_candidate_is_called_non_inferior_at_most_one_time_in_forty():
    rng = np.random.default_rng(8)
    # The true loss equals the margin: .6 * .1 - .4 * .1 = .02.
    calls = [non_inferiority(paired_difference(*versions(rng, 400, 0.1, 0.1)), 0.02) for _ in range(2000)]
    assert calls.count("non_inferior") / len(calls) <= 0.035


@pytest.mark.parametrize("correlation", [0.0, 0.05, 0.5, 1.0])
@pytest.mark.parametrize("loss", [0.02, 0.05])
def test_rare_losses_that_come_in_groups_are_not_called_non_inferior(loss, correlation):
    """30 groups of 20, the baseline always right; the candidate loses 2 or 5 points, and members of a group fall alike."""
    rng = np.random.default_rng(10)
    groups = np.repeat(np.arange(30), 20).tolist()
    spread = (1 - correlation) / max(correlation, 1e-9)
    calls = []
    for _ in range(400):
        chance = rng.beta(loss * spread, (1 - loss) * spread, 30) if 0 < correlation < 1 else np.full(30, loss)
        if correlation == 1:
            chance = (rng.random(30) < loss).astype(float)
        lost = (rng.random((30, 20)) < chance[:, None]).ravel()
        calls.append(non_inferiority(paired_difference(1.0 - lost, np.ones(600), groups=groups), 0.02))
    assert calls.count("non_inferior") / len(calls) <= 0.025


def test_identical_versions_in_groups_are_as_sure_as_the_groups_are_many():
    interval = paired_difference(np.ones(600), np.ones(600), groups=np.repeat(np.arange(30), 20).tolist())
    # As without groups at n = 30, with Student's t of 29 degrees of freedom: 2.0452 / 32.
    assert (interval.low, interval.high) == pytest.approx((-2.0452296 / 32, 2.0452296 / 32), rel=1e-5)


def test_a_ratio_difference_with_the_same_samples_on_both_sides_is_the_paired_one():
    first, second = [1.0, 0.0, math.nan, 1.0] * 20, [1.0, 1.0, math.nan, 0.0] * 20
    kept = [[value for value in values if value == value] for values in (first, second)]
    assert ratio_difference(first, second) == paired_difference(*kept)


@pytest.mark.parametrize("size", [1, 4])
def test_ratio_differences_cover_when_the_answers_decide_what_counts(size):
    """Precision: what each version calls positive differs; groups of ``size`` are called alike."""
    rng = np.random.default_rng(11)
    groups = np.repeat(np.arange(120), size).tolist()
    hits = []
    for _ in range(400):
        chance = np.repeat(rng.random(120), size)  # how likely both versions are right in a group
        called = [rng.random(120 * size) < share for share in (0.5, 0.8)]
        values = [np.where(side, (rng.random(120 * size) < chance).astype(float), math.nan) for side in called]
        interval = ratio_difference(*values, groups=groups)
        hits.append(interval.low <= 0 <= interval.high)
    assert 0.92 <= np.mean(hits) <= 0.975


def test_a_ratio_without_spread_keeps_an_honest_width():
    # 40 of 40 against 200 of 200 elsewhere: each side's Wilson bound, joined. The lower bound is the first side's alone.
    first = [1.0] * 40 + [math.nan] * 200
    second = [math.nan] * 40 + [1.0] * 200
    interval = ratio_difference(first, second)
    z = 1.959964
    assert (interval.low, interval.high) == pytest.approx((-(z * z) / (40 + z * z), z * z / (200 + z * z)), rel=1e-5)
