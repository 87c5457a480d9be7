import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

from posttrain.errors import ConfigError
from posttrain.metrics.bradley_terry import bradley_terry

DATA = Path(__file__).parents[2] / "fixtures" / "data"


def simulated(seed, *, prompts=60, repeats=1, truth=(1.0, 0.5, 0.0, -0.5, -1.0), nu=0.5, effect=0.0):
    """Two random pairs a prompt; ``repeats`` copies each judgement, so that prompts are clusters."""
    rng = np.random.default_rng(seed)
    first = rng.integers(0, len(truth), 2 * prompts)
    second = (first + rng.integers(1, len(truth), 2 * prompts)) % len(truth)
    place = rng.integers(0, 2, 2 * prompts) * 2 - 1
    eta = np.take(truth, first) - np.take(truth, second) + effect * place
    chances = np.exp(np.stack([-eta / 2, np.full(len(eta), math.log(nu) if nu else -np.inf), eta / 2], axis=1))
    chances /= chances.sum(axis=1, keepdims=True)
    outcome = (rng.random(len(eta))[:, None] > chances.cumsum(axis=1)).sum(axis=1) / 2
    names = [f"s{number}" for number in range(len(truth))]
    copy = [np.repeat(one, repeats) for one in (first, second, outcome, np.arange(2 * prompts) // 2, place)]
    return [names[i] for i in copy[0]], [names[i] for i in copy[1]], copy[2], copy[3].tolist(), copy[4]


def test_two_systems_have_the_log_odds_of_their_wins():
    outcomes = [1.0] * 30 + [0.0] * 10
    found = bradley_terry(["x"] * 40, ["y"] * 40, outcomes, prior_scale=1e4, num_draws=50)
    assert found.scores["x"].value - found.scores["y"].value == pytest.approx(math.log(3), abs=1e-6)
    assert found.scores["x"].value + found.scores["y"].value == pytest.approx(0, abs=1e-9)
    assert found.win_probability("x", "y") == pytest.approx(0.75, abs=1e-6)


def test_ties_follow_davidson():
    # equal strength, 20 ties among 60: nu / (2 + nu) = 1/3, so nu = 1
    found = bradley_terry(["x"] * 60, ["y"] * 60, [1.0] * 20 + [0.0] * 20 + [0.5] * 20, prior_scale=1e4, num_draws=50)
    assert found.log_nu.value == pytest.approx(0.0, abs=1e-6)
    assert found.scores["x"].value == pytest.approx(0.0, abs=1e-6)


def test_the_fit_is_the_maximum_a_general_optimiser_finds():
    first, second, outcome, groups, place = simulated(1, effect=0.5)
    found = bradley_terry(first, second, outcome, groups=groups, covariates={"place": place}, num_draws=10)
    names = sorted(set(first) | set(second))

    def minus_log_posterior(theta):
        total = 0.5 * (theta @ theta) / 9
        for one, other, result, where in zip(first, second, outcome, place, strict=True):
            eta = theta[names.index(one)] - theta[names.index(other)] + theta[5] * where
            logs = np.array([-eta / 2, theta[6], eta / 2])
            total -= logs[int(result * 2)] - np.log(np.exp(logs).sum())
        return total

    best = minimize(minus_log_posterior, np.zeros(7), method="BFGS").x
    mine = [*(found.scores[name].value for name in names), found.covariates["place"].value, found.log_nu.value]
    np.testing.assert_allclose(mine, best, atol=2e-5)


def test_scores_of_simulated_systems_lie_in_their_intervals_as_often_as_promised():
    truth = (1.0, 0.5, 0.0, -0.5, -1.0)
    inside = []
    for seed in range(250):
        first, second, outcome, groups, _ = simulated(seed, truth=truth)
        scores = bradley_terry(first, second, outcome, groups=groups, num_draws=200).scores
        inside += [scores[f"s{n}"].low <= value <= scores[f"s{n}"].high for n, value in enumerate(truth)]
    assert 0.93 <= np.mean(inside) <= 0.97


def test_copied_judgements_of_a_prompt_add_no_certainty():
    first, second, outcome, groups, _ = simulated(2, repeats=6, nu=0.0)
    clustered = bradley_terry(first, second, outcome, groups=groups, num_draws=300).scores["s0"]
    naive = bradley_terry(first, second, outcome, num_draws=300).scores["s0"]
    assert clustered.high - clustered.low > 2 * (naive.high - naive.low)  # sqrt(6) = 2.4


def test_a_covariate_takes_what_is_due_to_it():
    first, second, outcome, groups, place = simulated(3, prompts=400, truth=(0.0,) * 3, effect=0.8)
    found = bradley_terry(first, second, outcome, groups=groups, covariates={"place": place}, num_draws=200)
    assert found.covariates["place"].low <= 0.8 <= found.covariates["place"].high
    assert found.covariates["place"].low > 0.4


def test_an_undefeated_system_is_finite_with_a_wide_interval():
    first = ["best"] * 20 + ["x"] * 20
    second = ["x", "y"] * 10 + ["y"] * 20
    outcomes = [1.0] * 20 + [1.0, 0.0] * 10
    found = bradley_terry(first, second, outcomes, num_draws=200)
    assert found.one_sided == ("best",)
    best, other = found.scores["best"], found.scores["x"]
    assert math.isfinite(best.value)
    assert best.value > other.high
    assert best.high - best.low > 3
    assert best.high - best.low > 2 * (other.high - other.low)


def test_one_prompt_bounds_no_score():
    found = bradley_terry(["x"] * 40, ["y"] * 40, [1.0] * 30 + [0.0] * 10, groups=["p"] * 40, num_draws=50)
    assert (found.scores["x"].low, found.scores["x"].high) == (-math.inf, math.inf)
    assert math.isfinite(found.scores["x"].value)


def test_few_prompts_take_students_t_times_the_jackknifes_error():
    wins = (18, 12, 20, 6)  # of 20 in each of four prompts
    outcomes = [float(n < won) for won in wins for n in range(20)]
    groups = [prompt for prompt in range(4) for _ in range(20)]
    found = bradley_terry(["x"] * 80, ["y"] * 80, outcomes, groups=groups, prior_scale=1e4).scores["x"]
    rates = np.array([(sum(wins) - won) / 60 for won in wins])
    without = np.log(rates / (1 - rates)) / 2  # the score of two systems is half their log odds
    error = math.sqrt(3 / 4 * ((without - without.mean()) ** 2).sum())
    assert found.high - found.value == pytest.approx(3.182446 * error, rel=1e-5)  # Student's t, 3 degrees of freedom


def test_prompts_that_are_all_alike_leave_the_width_of_the_curvature():
    for prompts in (4, 12):
        outcomes = [1.0, 1.0, 1.0, 0.0] * prompts
        groups = [prompt for prompt in range(prompts) for _ in range(4)]
        found = bradley_terry(["x"] * len(outcomes), ["y"] * len(outcomes), outcomes, groups=groups, prior_scale=1e4, num_draws=50)
        # eta has information n p (1 - p), and a score is half of eta: one over its information, a quarter of it
        error = 0.5 / math.sqrt(len(outcomes) * 0.75 * 0.25)
        quantile = {4: 3.182446, 12: 2.200985}[prompts]
        assert found.scores["x"].high - found.scores["x"].value == pytest.approx(quantile * error, rel=1e-5)


def test_islands_and_wrong_outcomes_are_refused():
    with pytest.raises(ConfigError, match=r"2 islands never compared with each other: a, b \| c, d"):
        bradley_terry(["a", "c"], ["b", "d"], [1, 0])
    with pytest.raises(ConfigError, match=r"none of 0, \.5, 1"):
        bradley_terry(["a"], ["b"], [2])
    with pytest.raises(ConfigError, match="not finite"):
        bradley_terry(["a"], ["b"], [1], covariates={"length": [np.nan]})


def test_five_models_of_pandalm_are_ranked_with_intervals():
    rows = json.loads((DATA / "pandalm.json").read_text())
    models = [row["cmp_key"].split("_") for row in rows]
    outcome = [{0: 0.5, 1: 1.0, 2: 0.0}[row["annotator1"]] for row in rows]
    prompts = [row["instruction"] + row["input"] for row in rows]
    found = bradley_terry([a for a, _ in models], [b for _, b in models], outcome, groups=prompts, num_draws=200)
    assert len(found.scores) == 5
    assert sum(score.value for score in found.scores.values()) == pytest.approx(0, abs=1e-8)
    wins = {name: [o if a == name else 1 - o for (a, b), o in zip(models, outcome, strict=True) if name in (a, b)] for name in found.scores}
    best, worst = (pick(found.scores, key=lambda name: found.scores[name].value) for pick in (max, min))
    assert np.mean(wins[best]) > np.mean(wins[worst])
