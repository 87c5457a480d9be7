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


CACHE = """
import torch
from pathlib import Path
from posttrain.generation.cache import KeyValues
from posttrain.models import freed_memory_kept
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) - start
start, like = 0, torch.ones(1, 2, 1, 64)
with freed_memory_kept():
    torch.ones(2**24)  # 64 MiB that malloc keeps
    start = resident()
    cache = KeyValues(2**19)
    keys, values = cache.layer(0, like, like)  # 256 MiB each
    unwritten = resident()
    keys.fill_(1)
    written, zero = resident(), float(values[:, -1].abs().sum())
    del cache, keys, values
    print(unwritten, written, resident(), zero)
"""


def test_keys_and_values_cost_what_was_written_and_go_back_while_freed_memory_is_kept():
    run = subprocess.run([sys.executable, "-c", CACHE], capture_output=True, text=True, check=True)
    unwritten, written, after, zero = map(float, run.stdout.split())
    pages = 2**28 // 4096
    assert unwritten < 0.05 * pages
    assert 0.95 * pages < written < 1.05 * pages
    assert after < 0.05 * pages
    assert zero == 0.0


GROWN = """
import torch
from pathlib import Path
from posttrain.models import freed_memory_kept
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) - start
start = 0
start = resident()
with freed_memory_kept(apart=3) as after_step:
    torch.ones(2**24)  # 64 MiB
    after_step()  # what a step on fresh memory leaves
    torch.ones(2**28)  # 1 GiB
    found = []
    for _ in range(2):
        found.append(resident())
        after_step()
    print(*found, resident())
"""


def test_memory_that_has_grown_by_a_quarter_is_given_back_between_steps_but_not_after_each():
    run = subprocess.run([sys.executable, "-c", GROWN], capture_output=True, text=True, check=True)
    grown, soon, later = map(int, run.stdout.split())
    pages = 2**30 // 4096
    assert grown > 0.9 * pages
    assert soon > 0.9 * pages
    assert later < 0.1 * pages
