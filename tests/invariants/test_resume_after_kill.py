"""A run that was killed and started again ends with the same bytes as one that was left alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_run import KILLED_EPOCHS, digest, run_once

PROGRAM = Path(__file__).with_name("tiny_run.py")


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """What became of runs killed six times each, with and without random numbers in the step."""
    out = tmp_path_factory.mktemp("killed")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, PROGRAM, "killed", out], env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("with_dropout", [False, True], ids=["full, shared prefixes", "LoRA with dropout"])
@pytest.mark.usefixtures("one_thread")
def test_killed_at_random_points_equals_uninterrupted_bit_for_bit(tmp_path, killed, with_dropout):
    run_once(tmp_path, with_dropout=with_dropout, epochs=KILLED_EPOCHS)
    outcome = killed[str(with_dropout)]
    assert outcome["digest"] == digest(tmp_path)
    assert len(outcome["reached"]) == 6
    assert len(set(outcome["reached"])) >= 3, "the kills did not fall into the run"
    assert outcome["kills_while_writing"] >= 1, "no kill fell into the writing of a checkpoint"
