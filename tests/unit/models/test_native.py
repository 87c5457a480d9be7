"""The compiled attention against float64 and against the products it stands for."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from posttrain.models import attention, build_forest, native
from posttrain.records import TokenSequence

CAPABILITIES = torch.cpu.get_capabilities()
NEEDS = CAPABILITIES.get("avx512_bf16") and not CAPABILITIES.get("amx_bf16") and native.find_compiler()
needs_kernel = pytest.mark.skipif(not NEEDS, reason="needs AVX512-BF16 without AMX, and a C++ compiler")
NAMES = ("out", "grad_q", "grad_k", "grad_v")


@pytest.fixture(autouse=True)
def fresh():
    native._kernel.cache_clear()
    yield
    native._kernel.cache_clear()


def nodes_of(*rows):
    """Structure of a forest whose sequences are runs of (first id, length): what begins alike is shared."""
    sequences = [np.concatenate([np.arange(first, first + length) for first, length in row]) for row in rows]
    return build_forest([TokenSequence(ids.astype(np.int32), np.ones(len(ids), bool)) for ids in sequences], min_shared=1).nodes


FORESTS = {
    "one token": nodes_of([(0, 1)]),
    "one long": nodes_of([(0, 700)]),
    "flat": nodes_of([(0, 40)], [(100, 9)], [(200, 33)], [(300, 161)]),
    "three levels": nodes_of(
        *([(0, 135), (1000 * i, 18), (100 * i + 10 * j + 10000, length)] for i in (1, 2) for j, length in enumerate((12, 5, 1)))
    ),
    "one-token nodes": nodes_of([(0, 20), (50, 1)], [(0, 20), (60, 1)], [(0, 20), (70, 1), (80, 17)], [(0, 20), (70, 1), (90, 16)]),
}


def run(dtype, nodes, heads, kv_heads, width, window=0, scale=None):
    torch.manual_seed(heads)
    length = int(nodes[-1, 1])
    grad, q, k, v = (
        torch.randn(1, length, count, width).to(torch.bfloat16).to(dtype).transpose(1, 2) for count in (heads, heads, kv_heads, kv_heads)
    )
    scale = scale or width**-0.5
    out = attention.forest_forward(q, k, v, nodes, scale, window, 0.0)
    return (out, *attention.forest_backward(grad.transpose(1, 2), q, k, v, nodes, scale, window, 0.0))


def error(found, exact):
    return float((found.double() - exact).norm() / exact.norm())


@needs_kernel
@pytest.mark.parametrize("window", [0, 50])
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(9, 3, 64), (4, 4, 16), (5, 1, 80), (2, 1, 128)])
@pytest.mark.parametrize("forest", FORESTS)
def test_kernel_is_at_least_as_exact_as_the_products_it_replaces(monkeypatch, forest, heads, kv_heads, width, window):
    nodes = FORESTS[forest]
    exact = run(torch.float64, nodes, heads, kv_heads, width, window)
    kernel = run(torch.bfloat16, nodes, heads, kv_heads, width, window)
    assert native._kernel() is not None
    monkeypatch.setattr(native, "has_kernel", lambda *others: False)
    products = run(torch.bfloat16, nodes, heads, kv_heads, width, window)
    for name, ours, theirs, expected in zip(NAMES, kernel, products, exact, strict=True):
        if expected.norm() < 1e-9:  # one key: its probability is 1 whatever the query
            assert float(ours.double().norm()) < 1e-6, name
            continue
        assert ours.shape == theirs.shape
        assert error(ours, expected) < max(1.05 * error(theirs, expected), 1e-6), name
        assert error(ours, expected) < 4e-3, name


@needs_kernel
def test_large_scores_do_not_overflow():
    found = run(torch.bfloat16, FORESTS["flat"], 4, 2, 64, scale=30.0)
    exact = run(torch.float64, FORESTS["flat"], 4, 2, 64, scale=30.0)
    assert all(bool(values.isfinite().all()) for values in found)
    assert error(found[0], exact[0]) < 4e-3


@needs_kernel
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_result_depends_on_no_timing(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        first, *others = (run(torch.bfloat16, FORESTS["one long"], 9, 3, 64) for _ in range(4))
        exact = run(torch.float64, FORESTS["one long"], 9, 3, 64)
    finally:
        torch.set_num_threads(before)
    for other in others:
        assert all(torch.equal(ours, again) for ours, again in zip(first, other, strict=True))
    assert all(error(ours, expected) < 4e-3 for ours, expected in zip(first, exact, strict=True))


@needs_kernel
def test_a_score_that_is_not_a_number_is_not_hidden():
    nodes, shape = FORESTS["flat"], (1, 2, 243, 16)
    q, k, v = (torch.ones(shape, dtype=torch.bfloat16) for _ in range(3))
    q[0, 0, 5, 0] = math.nan
    out = attention.forest_forward(q, k, v, nodes, 0.25, 0, 0.0)
    assert bool(out[0, 5, 0].isnan().all())
    assert bool(out[0, 5, 1].isfinite().all())


@needs_kernel
@pytest.mark.parametrize("place", [0, 20, 39])
def test_a_key_that_is_not_a_number_is_not_hidden(place):
    nodes, shape = FORESTS["flat"], (1, 2, 243, 16)
    q, k, v = (torch.ones(shape, dtype=torch.bfloat16) for _ in range(3))
    k[0, 0, place, 3] = math.nan
    out = attention.forest_forward(q, k, v, nodes, 0.25, 0, 0.0)
    assert bool(out[0, place:40, 0].isnan().all())
    assert bool(out[0, :place].isfinite().all())
    assert bool(out[0, 40:].isfinite().all())


@needs_kernel
def test_paths_longer_than_a_block_of_scores_and_wide_groups():
    for nodes, heads in ((nodes_of([(0, 4500), (9000, 40)], [(0, 4500), (8000, 9)]), 2), (nodes_of([(0, 50)]), 112)):
        kernel, exact = (run(dtype, nodes, heads, 1, 16) for dtype in (torch.bfloat16, torch.float64))
        assert all(error(ours, expected) < 4e-3 for ours, expected in zip(kernel, exact, strict=True))


@needs_kernel
def test_it_is_built_once_and_needs_no_compiler_then(monkeypatch, tmp_path):
    monkeypatch.setenv("POSTTRAIN_HOME", str(tmp_path))
    assert native._kernel() is not None
    (built,) = tmp_path.glob("kernels/*")
    stamp = built.stat().st_mtime_ns
    native._kernel.cache_clear()
    monkeypatch.setattr(native, "find_compiler", lambda: None)
    assert native._kernel() is not None
    assert [file.stat().st_mtime_ns for file in tmp_path.glob("kernels/*")] == [stamp]


@needs_kernel
def test_a_damaged_library_is_built_again(monkeypatch, tmp_path):
    monkeypatch.setenv("POSTTRAIN_HOME", str(tmp_path))
    built = make_library(tmp_path)
    built.write_bytes(b"no library")
    assert native._kernel() is not None
    assert built.stat().st_size > 10_000


def make_library(home):
    """The library in the cache of ``home``, built and not loaded."""
    source = (Path(native.__file__).with_name("kernels") / "forest_attention.cpp").read_bytes()
    path = home / "kernels" / f"forest_attention-{native._mark(source)}.so"
    native._build(native.find_compiler(), source, path)
    return path


FAULTS = {
    "compiler fails": "unknown flag -mavx512bf16",
    "cache cannot be written": "kernels",
    "others can write it": "others can write",
    "no home": "home",
}


@needs_kernel
@pytest.mark.parametrize("fault", FAULTS)
def test_without_it_training_goes_on_and_says_why(monkeypatch, tmp_path, fault):
    expected = run(torch.float64, FORESTS["flat"], 4, 2, 16)
    monkeypatch.setenv("POSTTRAIN_HOME", str(tmp_path))
    if fault == "compiler fails":
        script = tmp_path / "c++"
        script.write_text("#!/bin/sh\necho 'unknown flag -mavx512bf16' >&2; exit 1\n")
        script.chmod(0o755)
        monkeypatch.setattr(native, "find_compiler", lambda: str(script))
    elif fault == "cache cannot be written":
        (tmp_path / "kernels").write_text("a file where a folder should be")
    elif fault == "others can write it":
        make_library(tmp_path).chmod(0o777)
    else:
        monkeypatch.setattr(native, "kernel_cache", lambda: Path("~nobody-of-this-name").expanduser())
    with pytest.warns(RuntimeWarning, match="the attention kernel cannot be used") as warned:
        found = run(torch.bfloat16, FORESTS["flat"], 4, 2, 16)
    assert len(warned) == 1
    assert FAULTS[fault] in str(warned[0].message)
    assert all(error(ours, exact) < 1e-2 for ours, exact in zip(found, expected, strict=True))
    assert native.kernel_in_use(torch.bfloat16, torch.device("cpu")) == "products"


@needs_kernel
def test_no_memory_is_an_error_and_not_the_end_of_the_process():
    code = """
import resource, torch
from posttrain.models import attention, native
assert native.kernel_in_use(torch.bfloat16, torch.device("cpu")) != "products"
length = 60_000
q, k, v = (torch.zeros(1, heads, length, 64, dtype=torch.bfloat16) for heads in (2, 2, 2))
nodes = torch.tensor([[0, length, -1, length]])
small = torch.tensor([[0, 16, -1, 16]])
attention.forest_forward(q[:, :, :16], k[:, :, :16], v[:, :, :16], small, 0.1, 0, 0.0)  # threads and their stacks are there
used = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + 24 * 2**20, -1))
try:
    attention.forest_forward(q, k, v, nodes, 0.1, 0, 0.0)
except MemoryError as error:
    print("said:", error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "no memory for attention over 60000 tokens" in done.stdout


def test_no_compiler_is_no_fault(monkeypatch, tmp_path):
    monkeypatch.setattr(native, "find_compiler", lambda: None)
    monkeypatch.setenv("POSTTRAIN_HOME", str(tmp_path))
    expected, found = (run(dtype, FORESTS["flat"], 4, 2, 16) for dtype in (torch.float64, torch.bfloat16))
    assert all(error(ours, exact) < 1e-2 for ours, exact in zip(found, expected, strict=True))
