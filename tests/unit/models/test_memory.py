"""What a step frees is kept: fresh pages are touched once, not once a step."""

import subprocess
import sys

import pytest

from posttrain.models.memory import keep_freed_memory

SCRIPT = """
import resource, sys, torch
from posttrain.models.memory import keep_freed_memory
if sys.argv[1] == "engine":
    from posttrain.models import ModelSettings, Policy
    from transformers import LlamaConfig, LlamaForCausalLM
    shape = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, vocab_size=64)
    Policy(LlamaForCausalLM(LlamaConfig(**shape)), ModelSettings(path="-"), compute_dtype=torch.float32)
else:
    keep_freed_memory(sys.argv[1] == "kept")
def take_and_free():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(64 * 2**20)  # 256 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
take_and_free()
print(min(take_and_free() for _ in range(4)))
"""


def faults(setting: str) -> int:
    """Page faults of taking 256 MB once more, the fewest of four times: something small may have settled where it was."""
    run = subprocess.run([sys.executable, "-c", SCRIPT, setting], capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(not keep_freed_memory(False), reason="the C library is not glibc")
def test_freed_memory_is_taken_again_without_fresh_pages():
    pages = 256 * 2**20 // 4096
    assert faults("usual") > pages / 1024  # a fault brings a page, or many where pages are huge
    assert faults("kept") < pages / 1024
    assert faults("engine") < pages / 1024
