"""PPO's pieces in plain Python: one answer after the other, one token after the other, no library but math."""

import math


def kl_reference(logprob, ref_logprob, estimator):
    distance = logprob - ref_logprob
    return {"k1": distance, "k2": distance**2 / 2, "k3": math.exp(-distance) - 1 + distance}[estimator]


def rewards_reference(scores, kl, kl_coef):
    """kl: a list of lists, one per answer."""
    rewards = [[-kl_coef * value for value in answer] for answer in kl]
    for answer, score in zip(rewards, scores, strict=True):
        answer[-1] += score
    return rewards


def gae_reference(rewards, values, discount, trace_decay):
    """(advantages, returns), both a list of lists; backwards through every answer, as equation 16 is usually coded."""
    advantages, returns = [], []
    for answer_rewards, answer_values in zip(rewards, values, strict=True):
        running, following, found = 0.0, 0.0, []
        for reward, value in zip(reversed(answer_rewards), reversed(answer_values), strict=True):
            delta = reward + discount * following - value
            running = delta + discount * trace_decay * running
            following = value
            found.append(running)
        advantages.append(found[::-1])
        returns.append([a + v for a, v in zip(advantages[-1], answer_values, strict=True)])
    return advantages, returns


def whiten_reference(values, shift_mean=True):
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / len(values)
    scaled = [(value - mean) / math.sqrt(variance + 1e-8) for value in values]
    return scaled if shift_mean else [value + mean for value in scaled]


def policy_loss_reference(logprobs, old_logprobs, advantages, clip_epsilon):
    total = 0.0
    for logprob, old, advantage in zip(logprobs, old_logprobs, advantages, strict=True):
        ratio = math.exp(logprob - old)
        bounded = min(max(ratio, 1 - clip_epsilon), 1 + clip_epsilon)
        total += -min(ratio * advantage, bounded * advantage)
    return total


def value_loss_reference(values, old_values, returns, clip_range):
    total = 0.0
    for value, old, target in zip(values, old_values, returns, strict=True):
        bounded = min(max(value, old - clip_range), old + clip_range)
        total += max((value - target) ** 2, (bounded - target) ** 2) / 2
    return total
