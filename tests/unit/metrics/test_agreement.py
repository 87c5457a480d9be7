import json
import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from posttrain.metrics.agreement import cohen_kappa, fleiss_kappa, krippendorff_alpha, percent_agreement

DATA = Path(__file__).parents[2] / "fixtures" / "data"
N = np.nan
# Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability", section C: four observers, twelve units
KRIPPENDORFF = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, N, N, N],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, N, 3],
        [N, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, N],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, N],
    ]
).T


def from_table(table):
    """Two raters' labels with the given confusion table."""
    cells = [(i, j) for i, row in enumerate(table) for j, count in enumerate(row) for _ in range(count)]
    return np.array(cells, dtype=float).T


def test_cohen_on_fleiss_three_diagnoses():
    # Fleiss, Levin & Paik (2003), table 18.1: agreement .89; by chance .80 x .80 + .15 x .05 ... worked out below
    table = [[75, 1, 4], [5, 4, 1], [0, 0, 10]]
    found = cohen_kappa(*from_table(table))
    chance = 0.80 * 0.80 + 0.05 * 0.10 + 0.15 * 0.10
    assert found.value == pytest.approx((0.89 - chance) / (1 - chance))
    assert round(found.value, 2) == 0.68  # as published
    assert found.low < found.value < found.high


def test_weighted_cohen_equals_its_definition():
    rng = np.random.default_rng(0)
    first = rng.integers(0, 4, 80)
    second = np.clip(first + rng.integers(-1, 2, 80), 0, 3)
    for name, power in (("linear", 1), ("quadratic", 2)):
        observed = np.mean([abs(a - b) ** power for a, b in zip(first, second, strict=True)])
        expected = np.mean([abs(a - b) ** power for a in first for b in second])
        assert cohen_kappa(first, second, weights=name).value == pytest.approx(1 - observed / expected)


def test_cohen_leaves_out_items_that_one_rater_skipped():
    first, second = from_table([[20, 5], [10, 15]])  # .70 seen, .50 by chance
    assert cohen_kappa(first, second).value == pytest.approx(0.4)
    padded = cohen_kappa([*first, 1, N], [*second, N, 0])
    assert (padded.value, padded.n) == (pytest.approx(0.4), 50)


def test_fleiss_on_the_example_of_fourteen_raters():
    # Fleiss (1971) form, ten subjects and five categories; the widely published result is .210
    counts = [
        *([0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1]),
        *([7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7]),
    ]
    ratings = [[category for category, count in enumerate(row) for _ in range(count)] for row in counts]
    assert round(fleiss_kappa(ratings).value, 3) == 0.210


@pytest.mark.parametrize(("level", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_krippendorff_on_his_example_with_missing_ratings(level, published):
    found = krippendorff_alpha(KRIPPENDORFF, level=level)
    assert round(found.value, 3) == published
    assert found.n == 11  # the unit with one rating pairs with nothing


def test_the_three_annotators_of_pandalm_agree_as_a_plain_count_says():
    rows = json.loads((DATA / "pandalm.json").read_text())
    ratings = np.array([[row[f"annotator{n}"] for n in (1, 2, 3)] for row in rows], dtype=float)
    for i, j in combinations(range(3), 2):
        pairs = [(row[f"annotator{i + 1}"], row[f"annotator{j + 1}"]) for row in rows]
        seen = sum(a == b for a, b in pairs) / len(pairs)
        chance = sum(sum(a == c for a, _ in pairs) * sum(b == c for _, b in pairs) for c in (0, 1, 2)) / len(pairs) ** 2
        assert cohen_kappa(ratings[:, i], ratings[:, j]).value == pytest.approx((seen - chance) / (1 - chance))
    agreeing = np.mean([np.mean([a == b for a, b in combinations(row, 2)]) for row in ratings])
    assert percent_agreement(ratings).value == pytest.approx(agreeing)


def test_all_figures_agree_where_their_definitions_do():
    rng = np.random.default_rng(3)
    ratings = rng.integers(0, 3, (200, 2)).astype(float)
    fleiss, alpha = fleiss_kappa(ratings).value, krippendorff_alpha(ratings).value
    # alpha corrects kappa's expected disagreement for sampling without replacement: De x N / (N - 1), N ratings
    assert 1 - alpha == pytest.approx((1 - fleiss) * (400 - 1) / 400)


def test_grouped_items_widen_the_interval_and_the_seed_repeats_it():
    rng = np.random.default_rng(4)
    once = rng.integers(0, 2, (40, 2)).astype(float)
    many, groups = np.repeat(once, 10, axis=0), np.repeat(np.arange(40), 10).tolist()
    loose = krippendorff_alpha(many, groups=groups)
    tight = krippendorff_alpha(many)
    assert loose.high - loose.low == pytest.approx((tight.high - tight.low) * np.sqrt(10), rel=0.2)
    assert krippendorff_alpha(many, groups=groups) == loose


def test_intervals_of_kappa_cover_the_truth_as_often_as_they_say():
    # two raters see the truth (half 0, half 1) and err independently in one of five: agreement .68, chance .5
    truth = (0.68 - 0.5) / 0.5
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(300):
        item = rng.integers(0, 2, 150)
        first, second = (np.where(rng.random(150) < 0.2, 1 - item, item) for _ in range(2))
        found = cohen_kappa(first, second)
        covered += found.low <= truth <= found.high
    assert 0.91 <= covered / 300 <= 0.98


def test_nothing_is_said_where_nothing_varies_and_perfect_agreement_is_not_certain():
    same = np.ones((10, 2))
    assert cohen_kappa(same[:, 0], same[:, 1]) is None
    assert fleiss_kappa(same) is None
    assert krippendorff_alpha(same) is None
    assert krippendorff_alpha(np.array([[1.0, N], [N, 2.0]])) is None
    perfect = cohen_kappa([0, 1] * 10, [0, 1] * 10)
    assert (perfect.value, perfect.high) == (1.0, 1.0)
    assert perfect.low == pytest.approx(1 - (1 - 20 / (20 + 1.959964**2)) / 0.5, abs=1e-6)  # Wilson: 20 of 20 may be 84 %


def test_one_group_bounds_nothing_however_many_items_it_has():
    first, second = from_table([[40, 5], [5, 50]])
    groups = ["the only prompt"] * 100
    ratings = np.stack([first, second], axis=1)
    for found in (
        cohen_kappa(first, second, groups=groups),
        cohen_kappa(first, first, groups=groups),
        fleiss_kappa(ratings, groups=groups),
        krippendorff_alpha(ratings, groups=groups),
        percent_agreement(ratings, groups=groups),
    ):
        assert (found.low, found.high) == (-math.inf, math.inf)


def test_few_groups_take_students_t_times_the_jackknifes_error():
    first, second = from_table([[20, 5], [5, 10]])
    groups = (np.arange(40) % 4).tolist()
    found = cohen_kappa(first, second, groups=groups)
    kept = [np.arange(40) % 4 != left_out for left_out in range(4)]
    without = np.array([cohen_kappa(first[keep], second[keep]).value for keep in kept])
    error = math.sqrt(3 / 4 * ((without - without.mean()) ** 2).sum())
    assert found.high - found.value == pytest.approx(3.182446 * error)  # the quantile .975 of Student's t, 3 degrees of freedom
    assert found.value - found.low == pytest.approx(3.182446 * error)


def test_two_perfect_groups_are_far_from_certain():
    found = cohen_kappa([0, 1] * 20, [0, 1] * 20, groups=["x"] * 20 + ["y"] * 20)
    z = 12.706205  # Student's t, 1 degree of freedom
    assert found.low == pytest.approx(1 - (1 - 2 / (2 + z**2)) / 0.5, abs=1e-5)
    assert found.low < 0


def test_groups_that_are_all_alike_leave_the_width_of_their_items():
    first, second = np.tile([0.0, 0.0, 1.0, 1.0], 10), np.tile([0.0, 1.0, 1.0, 1.0], 10)
    alike = cohen_kappa(first, second, groups=np.repeat(np.arange(10), 4).tolist())
    assert alike == cohen_kappa(first, second)
    assert alike.low < alike.value < alike.high


def test_intervals_over_four_prompts_cover_the_truth():
    """25 items a prompt; how often the raters agree differs from prompt to prompt (.68 on average, standard deviation .1)."""
    rng = np.random.default_rng(6)
    covered = 0
    for _ in range(300):
        right = np.repeat(rng.normal(0.68, 0.1, 4), 25)
        first = rng.integers(0, 2, 100)
        second = np.where(rng.random(100) < right, first, 1 - first)
        found = cohen_kappa(first, second, groups=np.repeat(np.arange(4), 25).tolist())
        covered += found.low <= (0.68 - 0.5) / 0.5 <= found.high
    assert 0.91 <= covered / 300 <= 0.99
