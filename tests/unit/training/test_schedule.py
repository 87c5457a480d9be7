import math

import pytest

from posttrain.training import TrainingSettings
from posttrain.training.schedule import learning_rate


def rates(schedule, num_steps=10, warmup_ratio=0.2):
    settings = TrainingSettings(learning_rate=0.8, schedule=schedule, warmup_ratio=warmup_ratio)
    return [learning_rate(step, num_steps, settings) for step in range(num_steps)]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_warm_up_rises_linearly_from_its_first_step_to_the_peak(schedule):
    assert rates(schedule)[:2] == pytest.approx([0.4, 0.8])


def test_linear_falls_by_equal_amounts_and_would_reach_zero_one_step_after_the_last():
    assert rates("linear")[2:] == pytest.approx([0.8 * (8 - k) / 8 for k in range(8)])


def test_cosine_is_at_half_its_peak_half_way():
    after = rates("cosine")[2:]
    assert after[0] == pytest.approx(0.8)
    assert after[4] == pytest.approx(0.4)
    assert after[2] == pytest.approx(0.4 * (1 + math.sqrt(0.5)))  # cos(pi / 4)
    assert after == sorted(after, reverse=True)


def test_constant_stays():
    assert rates("constant")[2:] == [0.8] * 8


def test_without_warm_up_the_first_step_has_the_peak():
    assert rates("cosine", warmup_ratio=0.0)[0] == 0.8


def test_a_run_of_one_step_has_the_peak():
    assert rates("cosine", num_steps=1, warmup_ratio=0.5) == [0.8]
