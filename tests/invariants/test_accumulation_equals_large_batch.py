"""How a step is cut and packed changes neither its loss nor its gradient."""

import pytest
import torch
from tiny_run import RECORD, build_policy, build_sequences, loss_fn, settings_for

from posttrain.training import Microbatch, TrainingItem, train
from posttrain.training.step import accumulate, scale_gradients

LAYOUTS = {
    "one micro-batch of 8, unshared": ([range(8)], False),
    "8 micro-batches of 1": ([[i] for i in range(8)], True),
    "one micro-batch of 8, shared": ([range(8)], True),
    "uneven micro-batches, shared": ([[0, 3, 5], [1], [2, 4, 6, 7]], True),
    "reversed micro-batches, unshared": ([[7, 6], [5, 4], [3, 2], [1, 0]], False),
}


@pytest.fixture
def exact(monkeypatch):
    """transformers rounds norms to float32 whatever the input; for float64 comparisons it is made to keep float64."""
    monkeypatch.setattr(torch, "float32", torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def loss_and_gradient(groups, share):
    policy = build_policy(dtype=torch.float64)
    items = [TrainingItem((sequence,)) for sequence in sorted(build_sequences(), key=lambda row: row.index)[:8]]
    microbatches = [Microbatch(n, tuple(items[i] for i in group), torch.device("cpu")) for n, group in enumerate(groups)]
    sums = accumulate(policy, microbatches, loss_fn, settings_for(share_prefixes=share))
    gradients = [parameter.grad for parameter in policy.trainable().values()]
    scale_gradients(gradients, sums.count, 1e9)
    return sums.loss / sums.count, torch.cat([gradient.flatten() for gradient in gradients])


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("layout", list(LAYOUTS)[1:])
def test_loss_and_gradient_do_not_depend_on_cutting_and_packing(layout):
    expected_loss, expected = loss_and_gradient(*LAYOUTS["one micro-batch of 8, unshared"])
    loss, gradient = loss_and_gradient(*LAYOUTS[layout])
    assert loss == pytest.approx(expected_loss, rel=1e-10)
    assert float((gradient - expected).norm() / expected.norm()) < 1e-10
    assert float(expected.norm()) > 0.01


@pytest.mark.parametrize("changes", [{"max_tokens_per_microbatch": 1}, {"share_prefixes": False}, {"max_tokens_per_microbatch": 90}])
def test_whole_runs_agree_whatever_fits_into_memory(tmp_path, changes):
    def run(name, **settings):
        policy = build_policy()
        settings = settings_for(group_shared_prefixes=False, checkpoint_every_steps=100, **settings)
        result = train(policy, build_sequences(), loss_fn, settings, run_dir=tmp_path / name, contract_record=RECORD)
        return [entry["loss"] for entry in result.history]

    assert run("changed", **changes) == pytest.approx(run("plain"), rel=1e-5)
