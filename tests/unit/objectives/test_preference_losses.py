"""What holds for every preference objective."""

import math

import pytest
import torch
from objective_cases import CASES, PAIRED, draw_inputs

from posttrain.objectives import apply_objective, objective_inputs, objective_settings

TRAINED = ("policy_chosen_logps", "policy_rejected_logps", "policy_logps", "chosen_rewards", "rejected_rewards")


def loss_of(case, inputs):
    name, settings = case
    return apply_objective(objective_settings(name)(**settings), inputs)


def with_gradients(inputs):
    return {name: value.clone().requires_grad_() if name in TRAINED else value for name, value in inputs.items()}


def swap(inputs):
    exchanged = {name: name.replace("chosen", "@").replace("rejected", "chosen").replace("@", "rejected") for name in inputs}
    return {exchanged[name]: value for name, value in inputs.items()}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_split_batch_adds_up_to_the_whole_in_loss_count_metrics_and_gradient(case):
    whole = with_gradients(draw_inputs(13))
    out = loss_of(case, whole)
    out.loss_sum.backward()
    parts = with_gradients(draw_inputs(13))
    pieces = [
        loss_of(case, {n: v if v.ndim == 0 else v[part] for n, v in parts.items()}) for part in (slice(0, 1), slice(1, 8), slice(8, 13))
    ]
    sum(piece.loss_sum for piece in pieces).backward()
    torch.testing.assert_close(sum(piece.loss_sum for piece in pieces), out.loss_sum, rtol=1e-12, atol=0)
    assert sum(piece.count for piece in pieces) == out.count == 13
    for name in objective_inputs(case[0]) & set(TRAINED):
        torch.testing.assert_close(parts[name].grad, whole[name].grad, rtol=1e-12, atol=0)
    for name, value in out.metrics.items():
        assert sum(piece.metrics[name] for piece in pieces) == pytest.approx(value, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("size", [0.0, 1e-30, 1.0, 1e3, 1e6])
def test_extreme_log_probabilities_give_finite_losses_and_gradients_in_float32(case, size):
    inputs = draw_inputs(4, dtype=torch.float32)
    signs = torch.tensor([[-1.0, -1.0, -0.0, -0.0], [-1.0, -0.0, -1.0, -0.0]])
    for name in TRAINED:
        inputs[name] = size * signs[int("rejected" in name)]
    inputs = with_gradients(inputs)
    out = loss_of(case, inputs)
    out.loss_sum.backward()
    assert torch.isfinite(out.loss_sum)
    assert all(math.isfinite(value) for value in out.metrics.values())
    for name in objective_inputs(case[0]) & set(TRAINED):
        assert torch.isfinite(inputs[name].grad).all(), name


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_completion_without_supervised_tokens_gives_no_nan(case):
    inputs = draw_inputs(2, dtype=torch.float32)
    for side in ("chosen", "rejected"):
        inputs |= {f"{side}_lengths": torch.tensor([0, 5]), f"policy_{side}_logps": torch.tensor([0.0, -4.0])}
        inputs |= {f"ref_{side}_logps": torch.tensor([0.0, -5.0])}
    assert torch.isfinite(loss_of(case, inputs).loss_sum)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_rows_count_nothing_and_still_have_a_gradient(case):
    inputs = with_gradients({name: value if value.ndim == 0 else value[:0] for name, value in draw_inputs(3).items()})
    out = loss_of(case, inputs)
    out.loss_sum.backward()
    assert (float(out.loss_sum.detach()), out.count) == (0.0, 0)


@pytest.mark.parametrize("case", PAIRED, ids=str)
def test_a_certain_soft_label_is_the_hard_label_to_the_bit(case):
    inputs = draw_inputs(9, dtype=torch.float32, probabilities=False)
    hard = loss_of(case, inputs).loss_sum
    assert torch.equal(loss_of(case, inputs | {"probabilities": torch.ones(9)}).loss_sum, hard)


@pytest.mark.parametrize("case", PAIRED, ids=str)
def test_a_soft_label_is_the_expected_loss_over_the_label(case):
    inputs = draw_inputs(9)
    p = inputs.pop("probabilities")
    for row in range(9):
        one = {name: value if value.ndim == 0 else value[row : row + 1] for name, value in inputs.items()}
        right, wrong = loss_of(case, one).loss_sum, loss_of(case, swap(one)).loss_sum
        soft = loss_of(case, one | {"probabilities": p[row : row + 1]}).loss_sum
        torch.testing.assert_close(soft, p[row] * right + (1 - p[row]) * wrong, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", PAIRED, ids=str)
def test_an_undecided_label_cannot_tell_the_answers_apart(case):
    inputs = draw_inputs(9) | {"probabilities": torch.full((9,), 0.5, dtype=torch.float64)}
    torch.testing.assert_close(loss_of(case, inputs).loss_sum, loss_of(case, swap(inputs)).loss_sum, rtol=1e-12, atol=0)


@pytest.mark.parametrize("case", PAIRED, ids=str)
def test_the_chosen_answer_is_pushed_up_and_the_rejected_one_down_at_a_tie(case):
    inputs = draw_inputs(5, probabilities=False)
    for name in TRAINED:
        inputs[name] = torch.full((5,), 0.0 if "rewards" in name else -6.0, dtype=torch.float64)
    for side in ("chosen", "rejected"):
        inputs |= {f"ref_{side}_logps": inputs[f"policy_{side}_logps"], f"{side}_lengths": torch.full((5,), 4)}
    inputs = with_gradients(inputs)
    loss_of(case, inputs).loss_sum.backward()
    chosen, rejected = (next(n for n in sorted(objective_inputs(case[0]) & set(TRAINED)) if side in n) for side in ("chosen", "rejected"))
    assert (inputs[chosen].grad < 0).all()
    assert (inputs[rejected].grad > 0).all()


@pytest.mark.parametrize("case", PAIRED, ids=str)
def test_metrics_are_sums_of_the_rewards_a_tie_counts_as_half(case):
    inputs = draw_inputs(3, probabilities=False)
    for suffix in ("policy_{}_logps", "ref_{}_logps", "{}_lengths", "{}_rewards"):  # right, wrong, tied
        high, low = -1.0, -9.0
        if suffix == "ref_{}_logps":
            high = low = -9.0
        if suffix == "{}_lengths":
            high = low = 2
        inputs[suffix.format("chosen")] = torch.tensor([high, low, low])
        inputs[suffix.format("rejected")] = torch.tensor([low, high, low])
    metrics = loss_of(case, inputs).metrics
    assert metrics["rewards/accuracy"] == 1.5
    assert metrics["rewards/margin"] == pytest.approx(metrics["rewards/chosen"] - metrics["rewards/rejected"])
    assert all(isinstance(value, float) for value in metrics.values())
