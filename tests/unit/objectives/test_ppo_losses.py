"""PPO's pieces: the sources' numbers, signs, edges, and sums that do not depend on the cut."""

import math

import pytest
import torch

from posttrain.objectives import gae, objective_inputs, objective_settings, ppo_policy_loss, ppo_value_loss, taxed_rewards, whiten


@pytest.mark.parametrize(("beta", "term", "net"), [(0.1, -0.05, 1.15), (3.0, -1.5, -0.3)])
def test_reward_less_the_tax_is_the_worked_example(beta, term, net):
    """Reward +1.2, KL .5: the brake takes .05 or 1.5."""
    rewards = taxed_rewards(torch.tensor([1.2]), torch.tensor([0.2, 0.4, -0.1]), torch.tensor([3]), kl_coef=beta)
    assert float(rewards.sum()) == pytest.approx(net, abs=1e-6)
    assert float(rewards.sum()) - 1.2 == pytest.approx(term, abs=1e-6)


def test_the_score_lands_on_the_last_token_of_its_own_answer():
    rewards = taxed_rewards(torch.tensor([1.0, 2.0]), torch.zeros(4), torch.tensor([3, 1]), kl_coef=0.5)
    assert rewards.tolist() == [0, 0, 1, 2]


def test_without_decay_the_advantage_is_reward_to_come_less_value():
    rewards, values = torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.tensor([0.5, 0.25, 1.0, 3.0])
    advantages, returns = gae(rewards, values, torch.tensor([3, 1]), trace_decay=1.0)
    assert returns.tolist() == [7, 6, 4, 8]
    assert advantages.tolist() == [6.5, 5.75, 3, 5]


def test_a_perfect_value_leaves_no_advantage():
    rewards = torch.tensor([0.0, 0.0, 1.0, 0.0, -1.0])
    values = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0])
    advantages, returns = gae(rewards, values, torch.tensor([3, 2]))
    assert not advantages.any()
    torch.testing.assert_close(returns, values)


def test_answers_do_not_leak_into_each_other():
    rewards, values, lengths = torch.randn(20), torch.randn(20), torch.tensor([5, 9, 6])
    whole, _ = gae(rewards, values, lengths)
    parts = [gae(r, v, torch.tensor([len(r)]))[0] for r, v in zip(rewards.split([5, 9, 6]), values.split([5, 9, 6]), strict=True)]
    torch.testing.assert_close(whole, torch.cat(parts))


def test_whitened_numbers_have_mean_zero_and_spread_one_and_constants_vanish():
    found = whiten(torch.randn(1000, dtype=torch.float64) * 7 + 3)
    assert float(found.mean()) == pytest.approx(0, abs=1e-9)
    assert float(found.std(correction=0)) == pytest.approx(1, abs=1e-6)
    assert not whiten(torch.full((5,), 4.0)).any()
    assert whiten(torch.tensor([4.0])).tolist() == [0.0]
    assert whiten(torch.ones(3), torch.zeros(3, dtype=torch.bool)).tolist() == [0, 0, 0]


def test_at_the_old_policy_the_loss_is_minus_the_advantage_and_so_is_the_gradient():
    logprobs = torch.tensor([-1.0, -2.0, -0.5], requires_grad=True)
    advantages = torch.tensor([1.0, -2.0, 0.5])
    out = ppo_policy_loss(logprobs, logprobs.detach(), advantages)
    out.loss_sum.backward()
    assert float(out.loss_sum.detach()) == pytest.approx(0.5)
    torch.testing.assert_close(logprobs.grad, -advantages)
    assert out.metrics == {"clip_fraction": 0.0, "update_kl": 0.0}


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.5, 1.0, -1.2, 0.0),  # rewarded beyond the clip: nothing more to gain
        (0.5, 1.0, -0.5, -0.5),  # rewarded and fallen: pulled back, no clip
        (0.5, -1.0, 0.8, 0.0),  # punished beyond the clip
        (1.5, -1.0, 1.5, 1.5),  # punished and risen: pushed down, no clip
    ],
)
def test_the_clip_takes_the_gradient_only_where_the_step_went_too_far_the_right_way(ratio, advantage, loss, slope):
    logprobs = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    out = ppo_policy_loss(logprobs, torch.zeros(1).double(), torch.tensor([advantage]).double(), clip_epsilon=0.2)
    out.loss_sum.backward()
    assert float(out.loss_sum.detach()) == pytest.approx(loss)
    assert float(logprobs.grad) == pytest.approx(slope)
    assert out.metrics["clip_fraction"] == (slope == 0)
    assert out.metrics["update_kl"] == pytest.approx(ratio - 1 - math.log(ratio))


@pytest.mark.parametrize(
    ("value", "target", "loss", "slope"),
    [
        (0.1, 1.0, 0.405, -0.9),  # within the range
        (0.5, 1.0, 0.32, 0.0),  # ran ahead towards the target: the clipped value .2 is what counts
        (0.5, 0.0, 0.125, 0.5),  # ran away from the target: its own error is larger
    ],
)
def test_value_loss_is_the_larger_of_clipped_and_plain(value, target, loss, slope):
    values = torch.tensor([value], dtype=torch.float64, requires_grad=True)
    out = ppo_value_loss(values, torch.zeros(1).double(), torch.tensor([target]).double(), clip_range=0.2)
    out.loss_sum.backward()
    assert float(out.loss_sum.detach()) == pytest.approx(loss)
    assert float(values.grad) == pytest.approx(slope)
    assert out.metrics["value_clip_fraction"] == (slope == 0)


def test_parts_of_a_batch_sum_to_the_whole():
    torch.manual_seed(0)
    new, old, third = torch.randn(3, 30).double()
    for loss in (ppo_policy_loss, ppo_value_loss):
        whole = loss(new, old, third)
        parts = [loss(*rows) for rows in zip(new.split(11), old.split(11), third.split(11), strict=True)]
        assert float(whole.loss_sum) == pytest.approx(sum(float(part.loss_sum) for part in parts))
        assert whole.count == sum(part.count for part in parts) == 30
        for name, value in whole.metrics.items():
            assert value == pytest.approx(sum(part.metrics[name] for part in parts))


def test_settings_and_inputs_come_from_the_signature():
    assert objective_inputs("ppo_policy") == {"logprobs", "old_logprobs", "advantages"}
    assert objective_inputs("ppo_value") == {"values", "old_values", "returns"}
    assert objective_settings("ppo_policy")().dump() == {"name": "ppo_policy", "clip_epsilon": 0.2}
