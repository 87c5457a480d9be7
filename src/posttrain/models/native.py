"""The forest attention of `kernels/forest_attention.cpp`: built once by the machine's C++ compiler, kept in the cache, used where it fits.

It runs for bfloat16 on x86 CPUs with AVX512-BF16 and without AMX (whose matrix units the plain products of ``attention.py`` use better),
under Linux. Elsewhere, with a soft cap, and where it can be neither found nor built, ``attention.py`` computes the same to within its
rounding. :func:`kernel_in_use` says which of the two a process has: a run that goes on under the other is told so.
"""

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from posttrain.config import kernel_cache

_FLAGS = ("-O3", "-std=c++17", "-fopenmp", "-shared", "-fPIC", "-mfma", *(f"-mavx512{part}" for part in ("f", "bw", "vl", "dq", "bf16")))
_LANES = 16


def find_compiler() -> str | None:
    """Path of a C++ compiler, None where there is none. GNU's first: its OpenMP is the one torch brings along."""
    return next((path for name in ("g++", "c++", "clang++") if (path := shutil.which(name))), None)


def kernel_in_use(dtype: torch.dtype, device: torch.device) -> str:
    """ "kernel MARK" where attention in this dtype runs in the kernel (MARK: a hash of its source), else "products"."""
    kernel = _kernel() if dtype == torch.bfloat16 and device.type == "cpu" else None
    return f"kernel {kernel.mark}" if kernel is not None else "products"


def has_kernel(q: Tensor, k: Tensor, v: Tensor, scale: float, softcap: float) -> bool:
    """Whether the kernel computes these queries, keys and values [1, heads, token, head_dim]; builds it at the first call."""
    fits = q.dtype == k.dtype == v.dtype == torch.bfloat16 and q.device.type == k.device.type == v.device.type == "cpu"
    width = q.shape[-1]
    fits = fits and k.shape == v.shape and width == k.shape[-1] and width > 0 and width % _LANES == 0 and q.shape[1] % k.shape[1] == 0
    return fits and scale > 0 and not softcap and _kernel() is not None


def forward(q: Tensor, k: Tensor, v: Tensor, nodes: Tensor, scale: float, window: int) -> Tensor:
    """Attention output [1, token, heads, head_dim]."""
    _, heads, length, width = q.shape
    out = q.new_empty(1, length, heads, width)
    _call("posttrain_forest_forward", (q, k, v, out.transpose(1, 2)), q, k, nodes, scale, window)
    return out


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, nodes: Tensor, scale: float, window: int, grads: tuple[Tensor, Tensor, Tensor]
) -> None:
    """Writes the gradients of q, k and v into ``grads``, shaped as those, rows contiguous; ``grad``: [1, token, heads, head_dim]."""
    _call("posttrain_forest_backward", (grad.transpose(1, 2), q, k, v, *grads), q, k, nodes, scale, window)


def _call(function: str, tensors: tuple[Tensor, ...], q: Tensor, k: Tensor, nodes: Tensor, scale: float, window: int) -> None:
    kernel = _kernel()
    assert kernel is not None
    tensors = tuple(tensor if tensor.stride(-1) == 1 else tensor.contiguous() for tensor in tensors)
    nodes = nodes.to("cpu", torch.int64).contiguous()
    failed = getattr(kernel.library, function)(
        _integers([q.shape[1], k.shape[1], q.shape[3], window]),
        ctypes.c_float(scale),
        ctypes.c_void_p(nodes.data_ptr()),
        ctypes.c_int64(len(nodes)),
        *(ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors),
        _integers([stride for tensor in tensors for stride in tensor.stride()[1:3]]),
        ctypes.c_int64(torch.get_num_threads()),
    )
    if failed:
        raise MemoryError(f"no memory for attention over {q.shape[2]} tokens; lower max_tokens_per_microbatch")


def _integers(values: list[int]) -> "ctypes.Array[ctypes.c_int64]":
    return (ctypes.c_int64 * len(values))(*values)


@dataclass(frozen=True, slots=True)
class _Kernel:
    library: ctypes.CDLL
    mark: str


@functools.cache
def _kernel() -> _Kernel | None:
    capabilities = torch.cpu.get_capabilities()
    if sys.platform != "linux" or not capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"):
        return None
    try:
        source = resources.files("posttrain.models").joinpath("kernels/forest_attention.cpp").read_bytes()
        mark = _mark(source)
        library = _load(source, kernel_cache() / f"forest_attention-{mark}.so")
    except (OSError, RuntimeError, subprocess.SubprocessError) as problem:  # RuntimeError: no home folder
        said = problem.stderr.decode(errors="replace") if isinstance(problem, subprocess.CalledProcessError) else str(problem)
        message = f"the attention kernel cannot be used, training goes on with a slower one: {said.strip()[:500]}"
        warnings.warn(message, RuntimeWarning, stacklevel=2)
        return None
    return _Kernel(library, mark) if library is not None else None


def _mark(source: bytes) -> str:
    return hashlib.sha256(source + " ".join(_FLAGS).encode()).hexdigest()[:16]


def _load(source: bytes, path: Path) -> ctypes.CDLL | None:
    """The library at ``path``, built where it is missing or damaged; None where that needs a compiler and there is none."""
    if path.is_file():
        status = path.stat()
        if status.st_uid not in (0, os.getuid()) or status.st_mode & 0o022:
            raise OSError(f"others can write {path}, so it is not loaded; remove it")
        try:
            return ctypes.CDLL(str(path))
        except OSError:
            path.unlink()
    compiler = find_compiler()
    if compiler is None:
        return None
    _build(compiler, source, path)
    return ctypes.CDLL(str(path))


def _build(compiler: str, source: bytes, path: Path) -> None:
    """Processes that build at once do not disturb each other: the library appears whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / "library.so"
        command = [compiler, *_FLAGS, "-x", "c++", "-", "-o", str(made)]
        subprocess.run(command, input=source, capture_output=True, check=True, timeout=600)
        made.chmod(0o755)
        with open(made, "rb") as stream:
            os.fsync(stream.fileno())
        made.replace(path)
