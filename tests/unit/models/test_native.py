"""The compiled attention against float64 and against the products it stands for."""

import math
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
    native._library.cache_clear()
    yield
    native._library.cache_clear()


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
    assert native._library() is not None
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
def test_it_is_built_once(monkeypatch, tmp_path):
    monkeypatch.setenv("POSTTRAIN_HOME", str(tmp_path))
    assert native._library() is not None
    (built,) = tmp_path.glob("kernels/*")
    stamp = built.stat().st_mtime_ns
    native._library.cache_clear()
    assert native._library() is not None
    assert [file.stat().st_mtime_ns for file in tmp_path.glob("kernels/*")] == [stamp]


@needs_kernel
@pytest.mark.parametrize("fault", ["compiler fails", "cache cannot be written", "library is damaged"])
def test_without_it_training_goes_on_and_says_why(monkeypatch, tmp_path, fault):
    expected = run(torch.float64, FORESTS["flat"], 4, 2, 16)
    monkeypatch.setenv("POSTTRAIN_HOME", str(tmp_path))
    if fault == "compiler fails":
        script = tmp_path / "c++"
        script.write_text("#!/bin/sh\n[ \"$1\" = --version ] && exit 0\necho 'unknown flag -mavx512bf16' >&2; exit 1\n")
        script.chmod(0o755)
        monkeypatch.setattr(native, "find_compiler", lambda: str(script))
        said = "unknown flag -mavx512bf16"
    elif fault == "cache cannot be written":
        (tmp_path / "kernels").write_text("a file where a folder should be")
        said = "kernels"
    else:
        source = Path(native.__file__).with_name("kernels") / "forest_attention.cpp"
        built = native._build(native.find_compiler(), source.read_bytes())
        built.write_bytes(b"no library")
        said = built.name
    with pytest.warns(RuntimeWarning, match="the attention kernel cannot be used") as warned:
        found = run(torch.bfloat16, FORESTS["flat"], 4, 2, 16)
    assert len(warned) == 1
    assert said in str(warned[0].message)
    assert all(error(ours, exact) < 1e-2 for ours, exact in zip(found, expected, strict=True))


def test_no_compiler_is_no_fault(monkeypatch):
    monkeypatch.setattr(native, "find_compiler", lambda: None)
    expected, found = (run(dtype, FORESTS["flat"], 4, 2, 16) for dtype in (torch.float64, torch.bfloat16))
    assert all(error(ours, exact) < 1e-2 for ours, exact in zip(found, expected, strict=True))
