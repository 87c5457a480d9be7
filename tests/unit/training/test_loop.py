import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny_run import RECORD, VOCABULARY, build_policy, build_sequences, loss_fn, settings_for

from posttrain.errors import InfrastructureError, ModelError, TrainingError
from posttrain.objectives import LossOutput
from posttrain.records import TokenSequence
from posttrain.training import Evaluation, TrainingItem, train


def start(policy, out, *, data=None, loss=loss_fn, on_step=None, evaluations=(), **changes):
    return train(
        policy,
        build_sequences() if data is None else data,
        loss,
        settings_for(**changes),
        run_dir=out,
        contract_record=RECORD,
        on_step=on_step,
        evaluations=evaluations,
    )


def test_training_lowers_the_loss_and_reports_every_step(tmp_path):
    reports = []
    result = start(build_policy(), tmp_path, on_step=reports.append, epochs=20.0, checkpoint_every_steps=100)
    assert [report.step for report in reports] == list(range(1, 121))  # 24 rows * 20 epochs / 4 a step
    assert result.num_steps == 120
    assert [entry["loss"] for entry in result.history] == [report.loss for report in reports]
    assert np.mean([report.loss for report in reports[-6:]]) < 0.5 * np.mean([report.loss for report in reports[:6]])
    assert reports[-1].epoch == 20.0
    assert reports[-1].eta_seconds == 0
    sequences = build_sequences()
    assert sum(report.count for report in reports) == 20 * sum(row.num_supervised for row in sequences)
    assert sum(report.logical_tokens for report in reports) == 20 * sum(len(row) for row in sequences)
    assert all(report.packed_tokens < report.logical_tokens for report in reports)


def test_a_finished_run_is_not_trained_again(tmp_path):
    first, second = build_policy(), build_policy()
    start(first, tmp_path)
    again = start(second, tmp_path, on_step=lambda report: pytest.fail("a step was done again"))
    assert again.resumed_from == again.num_steps == 12
    for name, parameter in first.trainable().items():
        assert torch.equal(parameter, second.trainable()[name])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_the_current_step_and_it_goes_on_later(tmp_path, number):
    def stop_in_step_three(policy, forest, microbatch):
        if len(seen) == 2:
            os.kill(os.getpid(), number)
        return loss_fn(policy, forest, microbatch)

    seen = []
    with pytest.raises(InfrastructureError, match=rf"stopped by {number.name} after step 3 of 12") as caught:
        start(build_policy(), tmp_path / "a", loss=stop_in_step_three, on_step=seen.append, checkpoint_every_steps=100)
    assert "run the same command again" in caught.value.hint
    assert [folder.name for folder in (tmp_path / "a" / "checkpoints").iterdir()] == ["step-00000003"]
    stopped, straight = build_policy(), build_policy()
    assert start(stopped, tmp_path / "a", checkpoint_every_steps=100).resumed_from == 3
    start(straight, tmp_path / "b", checkpoint_every_steps=100)
    for name, parameter in straight.trainable().items():
        assert torch.equal(parameter, stopped.trainable()[name])


def test_a_loss_that_is_not_finite_stops_before_the_update_and_names_its_rows(tmp_path):
    policy = build_policy()

    def broken(policy, forest, microbatch):
        out = loss_fn(policy, forest, microbatch)
        factor = float("nan") if 5 in microbatch.rows else 1.0
        return LossOutput(out.loss_sum * factor, out.count)

    before = []
    with pytest.raises(
        TrainingError, match=r"step \d+ was stopped before its update: the loss of micro-batch \d is nan \(data rows"
    ) as caught:
        start(policy, tmp_path, loss=broken, on_step=lambda _: before.append(snapshot(policy)), max_tokens_per_microbatch=1)
    assert "(data rows 5)" in str(caught.value)
    assert snapshot(policy) == (before[-1] if before else snapshot(build_policy()))


class ExplodingGradient(torch.autograd.Function):
    """The value passes, the gradient becomes infinite."""

    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("inf")


def test_a_gradient_that_is_not_finite_stops_before_the_update_and_names_its_rows(tmp_path):
    policy = build_policy()

    def broken(policy, forest, microbatch):
        out = loss_fn(policy, forest, microbatch)
        return LossOutput(ExplodingGradient.apply(out.loss_sum) if 7 in microbatch.rows else out.loss_sum, out.count)

    before = [snapshot(policy)]
    with pytest.raises(TrainingError, match=r"the gradient is not finite; micro-batch \d does it \(data rows 7\)"):
        start(policy, tmp_path, loss=broken, on_step=lambda _: before.append(snapshot(policy)), max_tokens_per_microbatch=1)
    assert snapshot(policy) == before[-1]


def test_a_step_that_counts_nothing_is_refused(tmp_path):
    rows = [TokenSequence(row.input_ids, np.zeros(len(row), dtype=bool), row.index) for row in build_sequences()]
    with pytest.raises(TrainingError, match="step 1 was stopped before its update: none of its tokens is supervised"):
        start(build_policy(), tmp_path, data=rows)


def test_evaluations_run_when_due_and_after_the_last_step(tmp_path):
    calls = []
    evaluation = Evaluation("probe", 5, lambda policy: {"calls": float(len(calls) or calls.append(0) or 0)})
    result = start(build_policy(), tmp_path, evaluations=[evaluation])
    assert [entry["step"] for entry in result.history if entry["evaluations"]] == [5, 10, 12]
    assert set(result.history[4]["evaluations"]) == {"probe/calls"}


def test_random_numbers_drawn_between_steps_do_not_change_the_run(tmp_path):
    plain, disturbed = build_policy(), build_policy()
    start(plain, tmp_path / "a")
    start(disturbed, tmp_path / "b", on_step=lambda _: torch.rand(3))
    assert snapshot(plain) == snapshot(disturbed)


def test_an_objective_over_pairs_gets_its_tensors_and_both_sequences_without_another_loop(tmp_path):
    rows = build_sequences()
    items = [TrainingItem((rows[i], rows[i + 1]), {"margin": torch.tensor([float(rows[i].index)])}) for i in range(0, 24, 2)]
    seen = []

    def pair_loss(policy, forest, microbatch):
        """-log sigmoid(logp(first) - logp(second)) with the pair's margin noted."""
        totals = torch.zeros(forest.num_sequences).index_add(0, forest.sequence_ids, policy.logprobs(forest))
        seen.append((microbatch.concat("margin").tolist(), [item.sequences[0].index for item in microbatch.items]))
        difference = totals[0::2] - totals[1::2]
        return LossOutput(-torch.nn.functional.logsigmoid(difference).sum(), len(microbatch.items), {"wins": float((difference > 0).sum())})

    result = start(build_policy(), tmp_path, data=items, loss=pair_loss, max_tokens_per_microbatch=150, epochs=4.0)
    assert all(margins == indexes for margins, indexes in seen)
    assert result.history[0]["count"] == 4
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    assert 0 <= result.history[-1]["metrics"]["wins"] <= 1


def test_a_second_process_in_the_same_folder_is_refused(tmp_path):
    hold = "import fcntl, sys; h = open(sys.argv[1], 'w'); fcntl.flock(h, fcntl.LOCK_EX); print(1, flush=True); sys.stdin.read()"
    other = subprocess.Popen([sys.executable, "-c", hold, str(tmp_path / ".lock")], stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    try:
        other.stdout.readline()
        with pytest.raises(InfrastructureError, match="is in use by another training process"):
            start(build_policy(), tmp_path)
    finally:
        other.communicate()


def snapshot(policy):
    return {name: parameter.detach().numpy().tobytes() for name, parameter in policy.trainable().items()}


def test_a_token_the_model_has_no_row_for_stops_before_the_first_step(tmp_path):
    last = TokenSequence(np.array([3, 4, VOCABULARY], dtype=np.int32), np.ones(3, dtype=bool), 24)
    with pytest.raises(ModelError, match=f"gives token id {VOCABULARY}, the embedding has {VOCABULARY} rows"):
        start(build_policy(), tmp_path, data=[*build_sequences(), last])
    assert not list(tmp_path.iterdir())
