"""When one process fails in the reference pass, no other waits for it: all stop and say why (two processes, gloo)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("tiny_reference.py")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    out = tmp_path_factory.mktemp("reference")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", PROGRAM, out]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads((out / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize(
    ("scenario", "failing", "problem"),
    [
        ("before_the_pass", 0, "IsADirectoryError"),
        ("in_the_second_process", 1, "RuntimeError: no memory left"),
        ("while_writing", 0, "File too large"),
    ],
)
def test_an_error_in_one_process_stops_both_with_its_message(stopped, scenario, failing, problem):
    assert problem in stopped[failing][scenario]
    other = stopped[1 - failing][scenario]
    assert other.startswith(f"InfrastructureError: process {failing} of 2 stopped")
    assert problem in other
