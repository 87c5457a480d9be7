"""PPO on a bandit ends where theory says: pi* proportional to pi_ref exp(r / beta). Real losses, controllers and Adam, in a real loop."""

import math

import pytest
import torch

from posttrain.objectives import AdaptiveKl, FixedKl, gae, kl_per_token, ppo_policy_loss, ppo_value_loss, taxed_rewards, whiten

BATCH = 4096


def optimum(reference, rewards, beta):
    """Maximum of E[r] - beta KL (Rafailov et al. 2023, equation 4)."""
    return torch.softmax(reference.log() + rewards / beta, -1)


def train(reference, rewards, controller, *, updates=120, learning_rate=0.1, whitened=False, estimator="k1"):
    """One-token answers: sample, tax, estimate, two epochs of two mini-batches. Returns the policy and the last coefficients and KLs."""
    torch.manual_seed(0)
    logits = reference.log().clone().requires_grad_()
    value = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.Adam([logits, value], lr=learning_rate)
    lengths, coefficient, trail = torch.ones(BATCH, dtype=torch.long), controller.coefficient, []
    for update in range(updates):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * (1 - update / updates)
        with torch.no_grad():
            actions = torch.multinomial(logits.softmax(-1), BATCH, replacement=True)
            old_logprobs, old_values = logits.log_softmax(-1)[actions], value.repeat(BATCH)
            kl = kl_per_token(old_logprobs, reference.log()[actions], estimator=estimator)
            taxed = taxed_rewards(rewards[actions], kl, lengths, kl_coef=coefficient)
            advantages, returns = gae(taxed, old_values, lengths)
            advantages = whiten(advantages) if whitened else advantages
        for rows in torch.randperm(BATCH).repeat(2).split(BATCH // 2):
            policy = ppo_policy_loss(logits.log_softmax(-1)[actions[rows]], old_logprobs[rows], advantages[rows])
            critic = ppo_value_loss(value.expand(len(rows)), old_values[rows], returns[rows])
            optimizer.zero_grad()
            ((policy.loss_sum + critic.loss_sum) / policy.count).backward()
            optimizer.step()
        coefficient = controller.after(coefficient, float(kl.mean()))
        trail.append((coefficient, float(kl.mean())))
    return logits.detach().softmax(-1), trail


@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_two_armed_bandit_reaches_the_closed_form_optimum(beta):
    reference, rewards = torch.tensor([0.7, 0.3]), torch.tensor([0.0, 1.0])
    policy, _ = train(reference, rewards, FixedKl(coefficient=beta))
    expected = optimum(reference, rewards, beta)
    assert float(expected[1]) == pytest.approx(0.3 * math.exp(1 / beta) / (0.7 + 0.3 * math.exp(1 / beta)), rel=1e-5)
    torch.testing.assert_close(policy, expected, rtol=0.02, atol=0)


def test_categorical_reaches_the_closed_form_optimum():
    reference = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05])
    rewards = torch.tensor([0.0, 0.5, -0.5, 1.0, 0.2])
    policy, _ = train(reference, rewards, FixedKl(coefficient=0.8))
    torch.testing.assert_close(policy, optimum(reference, rewards, 0.8), rtol=0.02, atol=0)


def test_whitened_advantages_change_the_step_size_and_not_the_optimum():
    reference, rewards = torch.tensor([0.7, 0.3]), torch.tensor([0.0, 1.0])
    policy, _ = train(reference, rewards, FixedKl(coefficient=1.0), whitened=True, learning_rate=0.03, updates=150)
    torch.testing.assert_close(policy, optimum(reference, rewards, 1.0), rtol=0.02, atol=0)


def test_the_adaptive_controller_holds_the_distance_and_ends_on_the_optimum_of_its_own_price():
    reference, rewards = torch.tensor([0.8, 0.2]), torch.tensor([0.0, 1.0])
    policy, trail = train(reference, rewards, AdaptiveKl(coefficient=1.0, target=0.2, gain=0.1, limit=1.0), updates=240)
    assert float((policy * (policy / reference).log()).sum()) == pytest.approx(0.2, rel=0.1)
    torch.testing.assert_close(policy, optimum(reference, rewards, trail[-1][0]), rtol=0.05, atol=0)


def test_a_k3_tax_misses_the_optimum():
    """Why k1 is the tax: its score function is the gradient of the KL. Taken as a score, k3 pulls elsewhere."""
    reference, rewards = torch.tensor([0.7, 0.3]), torch.tensor([0.0, 1.0])
    policy, _ = train(reference, rewards, FixedKl(coefficient=0.5), estimator="k3")
    assert abs(float(policy[1] - optimum(reference, rewards, 0.5)[1])) > 0.05
