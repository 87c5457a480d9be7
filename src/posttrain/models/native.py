"""The forest attention of `kernels/forest_attention.cpp`: built once by the machine's C++ compiler, kept in the cache, used where it fits.

It runs for bfloat16 on x86 CPUs with AVX512-BF16 and without AMX (whose matrix units the plain products of ``attention.py`` use better);
elsewhere, without a compiler, or with a soft cap, ``attention.py`` computes the same. Which of the two runs depends on the machine and the
shapes alone, so a run repeats to the bit.
"""

import ctypes
import functools
import hashlib
import shutil
import subprocess
import tempfile
import warnings
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from posttrain.config import kernel_cache

_FLAGS = ("-O3", "-std=c++17", "-fopenmp", "-shared", "-fPIC", "-mfma", *(f"-mavx512{part}" for part in ("f", "bw", "vl", "dq", "bf16")))
_LANES = 16


def find_compiler() -> str | None:
    """Path of a C++ compiler, None where there is none."""
    return next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)


def has_kernel(q: Tensor, k: Tensor, scale: float, softcap: float) -> bool:
    """Whether the compiled attention computes these queries and keys [1, heads, token, head_dim]; builds it at the first call."""
    fits = q.dtype == torch.bfloat16 and q.device.type == "cpu" and q.shape[-1] % _LANES == 0 and q.shape[1] % k.shape[1] == 0
    return fits and scale > 0 and not softcap and _library() is not None


def forward(q: Tensor, k: Tensor, v: Tensor, nodes: Tensor, scale: float, window: int) -> Tensor:
    """Attention output [1, token, heads, head_dim]."""
    _, heads, length, width = q.shape
    out = q.new_empty(1, length, heads, width)
    _call("posttrain_forest_forward", (q, k, v, out.transpose(1, 2)), q, k, nodes, scale, window)
    return out


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, nodes: Tensor, scale: float, window: int, grads: tuple[Tensor, Tensor, Tensor]
) -> None:
    """Writes the gradients of q, k and v into ``grads``, laid out as those; ``grad``: [1, token, heads, head_dim]."""
    _call("posttrain_forest_backward", (grad.transpose(1, 2), q, k, v, *grads), q, k, nodes, scale, window)


def _call(function: str, tensors: tuple[Tensor, ...], q: Tensor, k: Tensor, nodes: Tensor, scale: float, window: int) -> None:
    library = _library()
    assert library is not None
    tensors = tuple(tensor if tensor.stride(-1) == 1 else tensor.contiguous() for tensor in tensors)
    nodes = nodes.contiguous()
    sizes = _integers([q.shape[1], k.shape[1], q.shape[2], q.shape[3], window])
    strides = _integers([stride for tensor in tensors for stride in tensor.stride()[1:3]])
    getattr(library, function)(
        sizes,
        ctypes.c_float(scale),
        ctypes.c_void_p(nodes.data_ptr()),
        ctypes.c_int64(len(nodes)),
        *(ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors),
        strides,
        ctypes.c_int64(torch.get_num_threads()),
    )


def _integers(values: list[int]) -> "ctypes.Array[ctypes.c_int64]":
    return (ctypes.c_int64 * len(values))(*values)


@functools.cache
def _library() -> ctypes.CDLL | None:
    capabilities = torch.cpu.get_capabilities()
    compiler = find_compiler()
    if compiler is None or not capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"):
        return None
    source = resources.files("posttrain.models").joinpath("kernels/forest_attention.cpp").read_bytes()
    try:
        return ctypes.CDLL(str(_build(compiler, source)))
    except (OSError, subprocess.SubprocessError) as problem:
        said = problem.stderr.decode(errors="replace") if isinstance(problem, subprocess.CalledProcessError) else str(problem)
        message = f"the attention kernel cannot be used, training goes on with a slower one ({compiler}): {said.strip()[:500]}"
        warnings.warn(message, RuntimeWarning, stacklevel=2)
        return None


def _build(compiler: str, source: bytes) -> Path:
    """The library of ``source`` in the cache; built where it is not there yet. Processes that build at once do not disturb each other."""
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=60).stdout
    mark = hashlib.sha256(b"\0".join([source, version, " ".join(_FLAGS).encode()])).hexdigest()[:16]
    library = kernel_cache() / f"forest_attention-{mark}.so"
    if not library.is_file():
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            made = Path(folder) / "library.so"
            command = [compiler, *_FLAGS, "-x", "c++", "-", "-o", str(made)]
            subprocess.run(command, input=source, capture_output=True, check=True, timeout=600)
            made.replace(library)
    return library
