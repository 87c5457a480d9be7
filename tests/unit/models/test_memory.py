"""What a step frees is kept while a loop runs: fresh pages are touched once, not once a step."""

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")

SCRIPT = """
import resource, sys, torch
from pathlib import Path
from posttrain.models import freed_memory_kept
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(SIZE // 4)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])
SIZE, start = int(sys.argv[1]), resident()
usual = faults()
with freed_memory_kept():
    faults()
    inside, held = min(faults() for _ in range(4)), resident() - start  # something small may settle where the block was
print(usual, inside, held, resident() - start)
"""


@pytest.mark.parametrize("megabytes", [256, 2560])
def test_freed_memory_is_taken_again_without_fresh_pages_and_given_back_at_the_end(megabytes):
    size, page = megabytes * 2**20, 4096
    run = subprocess.run([sys.executable, "-c", SCRIPT, str(size)], capture_output=True, text=True, check=True)
    usual, inside, held, after = map(int, run.stdout.split())
    pages = size // page
    assert usual > pages / 1024  # a fault brings a page, or many where pages are huge
    assert inside < pages / 1024
    assert held > 0.9 * pages
    assert after < 0.1 * pages
