"""Preference objectives in plain Python: one pair after the other, from lists of token log-probabilities, written as the papers print them.

Every function takes one row (a dict of lists and numbers) and settings, and gives one loss. Soft labels are left to the caller.
"""

import math


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def log_ratio(row, side):
    total = 0.0
    for policy, ref in zip(row[f"policy_{side}"], row[f"ref_{side}"], strict=True):
        total += policy - ref
    return total


def mean(tokens):
    return sum(tokens) / len(tokens)


def dpo(row, *, beta, label_smoothing=0.0):
    delta = beta * log_ratio(row, "chosen") - beta * log_ratio(row, "rejected")
    return -(1 - label_smoothing) * math.log(sigmoid(delta)) - label_smoothing * math.log(sigmoid(-delta))


def robust_dpo(row, *, beta, label_smoothing):
    delta = beta * log_ratio(row, "chosen") - beta * log_ratio(row, "rejected")
    right, wrong = -math.log(sigmoid(delta)), -math.log(sigmoid(-delta))
    return ((1 - label_smoothing) * right - label_smoothing * wrong) / (1 - 2 * label_smoothing)


def ipo(row, *, beta, average_logps=False):
    chosen, rejected = log_ratio(row, "chosen"), log_ratio(row, "rejected")
    if average_logps:
        chosen, rejected = chosen / len(row["policy_chosen"]), rejected / len(row["policy_rejected"])
    return (chosen - rejected - 1 / (2 * beta)) ** 2


def odds(probability):
    return probability / (1 - probability)


def orpo(row, *, beta):
    chosen, rejected = math.exp(mean(row["policy_chosen"])), math.exp(mean(row["policy_rejected"]))
    ratio = odds(chosen) / odds(rejected)
    return -math.log(chosen) - beta * math.log(sigmoid(math.log(ratio)))


def simpo(row, *, beta, gamma):
    return -math.log(sigmoid(beta * mean(row["policy_chosen"]) - beta * mean(row["policy_rejected"]) - gamma))


def kto(row, *, beta, desirable_weight, undesirable_weight):
    """The row's ``chosen`` tokens are the answer, ``label`` its label, ``kl`` the step's estimate."""
    reward, reference_point = log_ratio(row, "chosen"), max(0.0, row["kl"])
    if row["label"]:
        return desirable_weight - desirable_weight * sigmoid(beta * (reward - reference_point))
    return undesirable_weight - undesirable_weight * sigmoid(beta * (reference_point - reward))


def bradley_terry(row, *, center):
    loss = -math.log(sigmoid(row["chosen_reward"] - row["rejected_reward"] - row["margin"]))
    return loss + center * (row["chosen_reward"] + row["rejected_reward"]) ** 2
