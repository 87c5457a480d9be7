"""Two processes under torchrun end where one process ends (float64, for AdamW makes much of rounding where a gradient is near zero)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import run_once

PROGRAM = Path(__file__).with_name("tiny_run.py")
WEIGHTS = Path("checkpoints", "step-00000012", "weights.safetensors")


def test_two_processes_equal_one(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", PROGRAM, "once", tmp_path / "two"]
    two = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert two.returncode == 0, two.stderr
    one = run_once(tmp_path / "one", dtype=torch.float64)
    losses = json.loads(two.stdout.splitlines()[-1])["losses"]
    assert losses == pytest.approx([entry["loss"] for entry in one.history], abs=1e-6)
    weights, expected = load_file(tmp_path / "two" / WEIGHTS), load_file(tmp_path / "one" / WEIGHTS)
    for name, tensor in expected.items():
        assert float((weights[name] - tensor).abs().max()) < 1e-6, name
