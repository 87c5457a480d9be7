"""PPO's vectorised pieces equal the plain-Python ones on ragged answers, gradients included."""

import numpy as np
import pytest
import torch
from ppo_reference import (
    gae_reference,
    kl_reference,
    policy_loss_reference,
    rewards_reference,
    value_loss_reference,
    whiten_reference,
)

from posttrain.objectives import gae, kl_per_token, ppo_policy_loss, ppo_value_loss, taxed_rewards, whiten

LENGTHS = [[1], [1, 1, 1], [7], [3, 1, 16, 2, 17, 64, 1], [300, 1, 129]]


def draw(lengths, *, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.normal(size=length).tolist() for length in lengths]


def flat(ragged, dtype=torch.float64):
    return torch.tensor([value for answer in ragged for value in answer], dtype=dtype)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_estimators(estimator):
    (first, second) = draw([50, 50])
    found = kl_per_token(torch.tensor(first), torch.tensor(second), estimator=estimator)
    expected = [kl_reference(a, b, estimator) for a, b in zip(first, second, strict=True)]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_taxed_rewards(lengths):
    kl, (scores,) = draw(lengths), draw([len(lengths)], seed=1)
    found = taxed_rewards(torch.tensor(scores, dtype=torch.float64), flat(kl), torch.tensor(lengths), kl_coef=0.3)
    torch.testing.assert_close(found, flat(rewards_reference(scores, kl, 0.3)))


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize(("discount", "trace_decay"), [(1.0, 0.95), (0.99, 0.9), (1.0, 1.0), (0.9, 0.0)])
def test_gae(lengths, discount, trace_decay):
    rewards, values = draw(lengths), draw(lengths, seed=1)
    found = gae(flat(rewards), flat(values), torch.tensor(lengths), discount=discount, trace_decay=trace_decay)
    expected = gae_reference(rewards, values, discount, trace_decay)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, flat(other), rtol=1e-12, atol=1e-12)


def test_gae_in_float32_is_no_less_exact_than_the_sequential_sum():
    """1,024 tokens, no decay: the hardest case for rounding. The scan by doubling beats a float32 loop against float64."""
    lengths = [1024] * 8
    rewards, values = draw(lengths), draw(lengths, seed=1)
    exact = flat(gae_reference(rewards, values, 1.0, 1.0)[0])
    ours, _ = gae(flat(rewards, torch.float32), flat(values, torch.float32), torch.tensor(lengths), trace_decay=1.0)
    loop = []
    for answer_rewards, answer_values in zip(rewards, values, strict=True):
        running, following, found = np.float32(0), np.float32(0), []
        for reward, value in zip(np.float32(answer_rewards)[::-1], np.float32(answer_values)[::-1], strict=True):
            running = (reward + following - value) + running
            following = value
            found.append(float(running))
        loop += found[::-1]
    assert (ours - exact).abs().max() < (torch.tensor(loop) - exact).abs().max()
    assert (ours - exact).abs().max() < 1e-4


@pytest.mark.parametrize("shift_mean", [True, False])
def test_whiten_looks_at_the_masked_entries_only(shift_mean):
    (values,) = draw([40])
    mask = torch.arange(40) % 3 != 0
    found = whiten(torch.tensor(values, dtype=torch.float64), mask, shift_mean=shift_mean)
    expected = torch.tensor(whiten_reference([v for v, kept in zip(values, mask.tolist(), strict=True) if kept], shift_mean))
    torch.testing.assert_close(found[mask], expected.double())
    assert not found[~mask].any()
    tampered = torch.tensor(values, dtype=torch.float64).masked_fill(~mask, 1e6)
    torch.testing.assert_close(whiten(tampered, mask, shift_mean=shift_mean), found, rtol=1e-12, atol=1e-12)


def central_difference(loss, point, step=1e-6):
    found = []
    for position in range(len(point)):
        up, down = list(point), list(point)
        up[position] += step
        down[position] -= step
        found.append((loss(up) - loss(down)) / (2 * step))
    return torch.tensor(found)


def test_policy_loss_and_gradient():
    old, shift, advantages = draw([60, 60, 60], seed=3)
    new = [a + 0.3 * b for a, b in zip(old, shift, strict=True)]
    logprobs = torch.tensor(new, dtype=torch.float64, requires_grad=True)
    out = ppo_policy_loss(logprobs, torch.tensor(old).double(), torch.tensor(advantages).double(), clip_epsilon=0.2)
    out.loss_sum.backward()
    assert out.count == 60
    assert float(out.loss_sum.detach()) == pytest.approx(policy_loss_reference(new, old, advantages, 0.2), rel=1e-6)
    expected = central_difference(lambda point: policy_loss_reference(point, old, advantages, 0.2), new)
    torch.testing.assert_close(logprobs.grad, expected.double(), rtol=1e-4, atol=1e-5)


def test_value_loss_and_gradient():
    old, shift, returns = draw([60, 60, 60], seed=4)
    new = [a + 0.4 * b for a, b in zip(old, shift, strict=True)]
    values = torch.tensor(new, dtype=torch.float64, requires_grad=True)
    out = ppo_value_loss(values, torch.tensor(old).double(), torch.tensor(returns).double(), clip_range=0.2)
    out.loss_sum.backward()
    assert float(out.loss_sum.detach()) == pytest.approx(value_loss_reference(new, old, returns, 0.2), rel=1e-6)
    expected = central_difference(lambda point: value_loss_reference(point, old, returns, 0.2), new)
    torch.testing.assert_close(values.grad, expected.double(), rtol=1e-4, atol=1e-5)
