"""What a score is worth, and when two rewards have parted."""

import numpy as np
import pytest
import torch

from posttrain.config import parse
from posttrain.errors import ConfigError, TrainingError
from posttrain.stages.ppo_controls import check_finite, check_scores, explained_variance, parted, shape_scores, slope
from posttrain.stages.ppo_settings import DivergenceRule, PpoConfig, RewardShaping

SCORES, LENGTHS, ENDED = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([10, 20, 60]), torch.tensor([True, True, False])


def test_without_settings_a_score_is_itself():
    assert torch.equal(shape_scores(SCORES, LENGTHS, ENDED, RewardShaping()), SCORES)


def test_a_reward_that_only_counts_tokens_is_worth_nothing_after_correction():
    assert slope(SCORES.tolist(), LENGTHS.tolist()) == pytest.approx(0.1)
    shaped = shape_scores(SCORES, LENGTHS, ENDED, RewardShaping(length_coefficient=0.1))
    torch.testing.assert_close(shaped, torch.zeros(3))


def test_the_controls_come_in_the_order_written():
    """Correct (.9, 1.8, 5.4 at .01), divide by the spread, clip at 2, charge the unfinished answer."""
    shaping = RewardShaping(length_coefficient=0.01, whiten=True, clip=2.0, missing_eos_penalty=0.5)
    corrected = torch.tensor([0.9, 1.8, 5.4])
    mean, spread = corrected.mean(), corrected.std(correction=0)
    scaled = (corrected - mean) / spread + mean
    expected = scaled.clamp(-2, 2) - torch.tensor([0, 0, 0.5])
    torch.testing.assert_close(shape_scores(SCORES, LENGTHS, ENDED, shaping), expected)


@pytest.mark.parametrize(
    ("raw", "clip", "message"),
    [
        ([0.5, 0.5, 0.5], None, "update 3 was stopped before its first step: all 3 answers got the same reward, 0.5; there is"),
        ([2e-9, 5e-9, 1e-9], None, "all 3 answers got the same reward, 2e-09; there is"),
        ([5.0, 7.0, 9.0], 1.0, r"all 3 answers got the same reward, 1 after clipping and correction \(raw: 5 to 9\)"),
    ],
)
def test_scores_nothing_can_be_learned_from_are_refused(raw, clip, message):
    shaped = shape_scores(torch.tensor(raw), LENGTHS, ENDED, RewardShaping(clip=clip))
    with pytest.raises(TrainingError, match=message):
        check_scores(raw, shaped, 3)


def test_a_reward_that_is_not_finite_is_refused_by_name():
    check_finite({"reward": [0.1, 0.2], "held_out_reward": [-0.1, 0.3]}, 3)
    with pytest.raises(TrainingError, match=r"update 3 .* the held_out_reward of answer 2 of 2 is inf"):
        check_finite({"reward": [0.1, 0.2], "held_out_reward": [-0.1, float("inf")]}, 3)


def test_explained_variance():
    returns = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert explained_variance(returns, returns) == 1
    assert explained_variance(torch.full((4,), 2.5), returns) == 0
    assert explained_variance(5 - returns, returns) == pytest.approx(-3)  # errors twice as wide as the returns
    assert explained_variance(returns, torch.ones(4)) == 0


def simulate(draw, updates, answers, *, reward=lambda u: 0.0, held_out=lambda u: 0.0):
    """A history of noisy means: both rewards share half of their noise, as two models of one preference do."""
    history = []
    for update in range(updates):
        common, own, other = draw.normal(size=(3, answers))
        first, second = reward(update) + common + own, held_out(update) + common + other
        entry = {"answers": answers}
        for name, values in (("reward", first), ("held_out_reward", second)):
            entry |= {name: float(values.mean()), f"{name}_sd": float(values.std(ddof=1))}
        history.append(entry)
    return history


def stops(history, rule, planned):
    return next((n for n in range(1, len(history) + 1) if parted(history[:n], rule, planned)), None)


def test_the_rule_stops_a_gamed_run_soon_after_the_rewards_part():
    draw = np.random.default_rng(0)
    found = [
        stops(simulate(draw, 40, 16, reward=lambda u: 0.1 * u, held_out=lambda u: 0.1 * min(u, 20 - u)), DivergenceRule(), 40)
        for _ in range(50)
    ]
    assert sum(stop is not None and 14 <= stop <= 40 for stop in found) >= 45


@pytest.mark.parametrize("rise", [0.0, 0.1], ids=["nothing changes", "reward rises and held-out stays"])
def test_the_rule_seldom_stops_a_run_in_which_nothing_parts(rise):
    draw = np.random.default_rng(1)
    runs = [simulate(draw, 30, 16, reward=lambda u: rise * u) for _ in range(100)]
    assert sum(stops(run, DivergenceRule(alpha=0.05), 30) is not None for run in runs) <= 5 + 2 * 2.2  # 5 % and two standard errors


def test_the_reason_names_windows_and_both_tests():
    draw = np.random.default_rng(2)
    history = simulate(draw, 12, 64, reward=lambda u: u, held_out=lambda u: -u)
    assert parted(history[:7], DivergenceRule(), 12) == ""
    reason = parted(history, DivergenceRule(), 12)
    assert "over the last 4 updates, against the first 4, the reward rose" in reason
    assert "held-out reward fell" in reason


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adapter": "a"}, "merge it first"),
        ({"lora": {"dropout": 0.1}}, "'lora.dropout' must be 0"),
        ({"compile": True}, "the same layers also generate"),
        ({"lora": {}, "value_model": "x"}, "'value_model' is for full training"),
        ({"training": {"sequences_per_step": 6}, "minibatches": 4}, "each of the 4 minibatches needs 2 answers"),
        ({"kl": {"name": "adaptive", "targt": 3}}, "targt"),
        ({"kl_buget": 3}, "did you mean 'kl_budget'"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        parse(PpoConfig, {"data": "p", "reward_model": "r", **settings}, where="recipe")


def test_rates_follow_the_method():
    full, lora = (parse(PpoConfig, {"data": "p", "reward_model": "r", **extra}, where="") for extra in ({}, {"lora": {}}))
    assert (full.training.learning_rate, lora.training.learning_rate) == (1e-6, 5e-5)
    assert full.value_rate_ratio == 10
    assert full.model_copy(update={"value_learning_rate": 3e-6}).value_rate_ratio == pytest.approx(3)
