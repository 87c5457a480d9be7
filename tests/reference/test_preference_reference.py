"""Every preference objective equals its slow plain-Python form in value, and in gradient by central differences of that form."""

import copy
import random

import preference_reference
import pytest
import torch

from posttrain.objectives import apply_objective, objective_settings

CASES = [
    ("dpo", {"beta": 0.1}),
    ("dpo", {"beta": 0.5, "label_smoothing": 0.2}),
    ("robust_dpo", {"beta": 0.5, "label_smoothing": 0.2}),
    ("ipo", {"beta": 0.1}),
    ("ipo", {"beta": 0.7, "average_logps": True}),
    ("orpo", {"beta": 0.25}),
    ("simpo", {"beta": 2.0, "gamma": 0.5}),
    ("kto", {"beta": 0.2, "desirable_weight": 1.3, "undesirable_weight": 0.8}),
    ("bradley_terry", {"center": 0.05}),
]
TOKENS = ("policy_chosen", "policy_rejected")
REWARDS = ("chosen_reward", "rejected_reward")


def draw_rows(seed):
    """Six rows: random lengths, one of single tokens, one tied with its reference, one whose two answers are the same."""
    draw = random.Random(seed)
    rows = []
    for number in range(6):
        row = {"kl": 0.4, "label": draw.random() < 0.5, "margin": draw.random(), **{name: draw.gauss(0, 1.5) for name in REWARDS}}
        for side in ("chosen", "rejected"):
            length = 1 if number == 0 else draw.randint(2, 9)
            row[f"policy_{side}"] = [-draw.expovariate(1.0) - 0.01 for _ in range(length)]
            row[f"ref_{side}"] = [-draw.expovariate(1.0) for _ in range(length)]
        rows.append(row)
    rows[1] |= {f"ref_{side}": list(rows[1][f"policy_{side}"]) for side in ("chosen", "rejected")}
    rows[2] |= {f"{model}_rejected": list(rows[2][f"{model}_chosen"]) for model in ("policy", "ref")} | {REWARDS[1]: rows[2][REWARDS[0]]}
    return rows


def tensors_of(rows):
    """The standard tensors, and the leaves that gradients are compared in: policy sums and rewards."""
    double = {"dtype": torch.float64}
    named = {
        f"{model}_{side}_logps": torch.tensor([sum(row[f"{model}_{side}"]) for row in rows], **double)
        for model in ("policy", "ref")
        for side in ("chosen", "rejected")
    }
    named |= {f"{side}_lengths": torch.tensor([len(row[f"policy_{side}"]) for row in rows]) for side in ("chosen", "rejected")}
    named |= {f"{name}s": torch.tensor([row[name] for row in rows], **double) for name in (*REWARDS, "margin")}
    named |= {"labels": torch.tensor([row["label"] for row in rows]), "kl": torch.tensor(rows[0]["kl"], **double)}
    leaves = {name: named[f"{name}_logps"].requires_grad_() for name in TOKENS} | {
        name: named[f"{name}s"].requires_grad_() for name in REWARDS
    }
    return named | {"policy_logps": named["policy_chosen_logps"], "ref_logps": named["ref_chosen_logps"]}, leaves


def moved(row, leaf, step):
    """The row with the log-probability of the first token of ``leaf`` (or the reward) moved: its sum moves as much."""
    other = copy.deepcopy(row)
    if leaf in TOKENS:
        other[leaf][0] += step
    else:
        other[leaf] += step
    return other


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_value_and_gradient_equal_the_plain_python_form(case, seed):
    name, settings = case
    rows, reference = draw_rows(seed), getattr(preference_reference, name)
    named, leaves = tensors_of(rows)
    out = apply_objective(objective_settings(name)(**settings), named)
    assert float(out.loss_sum.detach()) == pytest.approx(sum(reference(row, **settings) for row in rows), rel=1e-12)
    out.loss_sum.backward()
    step = 1e-5
    for leaf, tensor in leaves.items():
        found = [0.0] * len(rows) if tensor.grad is None else tensor.grad.tolist()
        slopes = [(reference(moved(r, leaf, step), **settings) - reference(moved(r, leaf, -step), **settings)) / (2 * step) for r in rows]
        assert found == pytest.approx(slopes, rel=1e-7, abs=1e-8), leaf


@pytest.mark.parametrize("case", [case for case in CASES if case[0] != "kto"], ids=str)
def test_soft_labels_equal_the_weighted_plain_python_forms(case):
    name, settings = case
    rows, reference = draw_rows(7), getattr(preference_reference, name)
    probabilities = [0.0, 0.2, 0.5, 0.8, 0.95, 1.0]
    expected = 0.0
    for row, p in zip(rows, probabilities, strict=True):
        flipped = {**row, **{key: row[key.replace("chosen", "@").replace("rejected", "chosen").replace("@", "rejected")] for key in row}}
        expected += p * reference(row, **settings) + (1 - p) * reference(flipped, **settings)
    named, _ = tensors_of(rows)
    out = apply_objective(objective_settings(name)(**settings), named | {"probabilities": torch.tensor(probabilities, dtype=torch.float64)})
    assert float(out.loss_sum.detach()) == pytest.approx(expected, rel=1e-12)
