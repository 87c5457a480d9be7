"""Memory of the process: what a training step frees is kept for the next one."""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # numbers of <malloc.h>
_USUAL = ((_MMAP_MAX, 65536), (_MMAP_THRESHOLD, 32 * 2**20), (_TRIM_THRESHOLD, 64 * 2**20))
"""Where glibc's own sliding thresholds end up in a process with large tensors."""
_KEEPING = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1))


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Inside the block, freed memory is kept (:func:`keep_freed_memory`); at its end what is free goes back to the system."""
    keep_freed_memory()
    try:
        yield
    finally:
        keep_freed_memory(False)
        if _has_glibc():
            ctypes.CDLL(None).malloc_trim(0)


def keep_freed_memory(keep: bool = True) -> None:
    """Ask glibc's malloc to reuse freed blocks of any size instead of handing them back to the system and fetching fresh pages.

    A training step on a CPU frees and takes gigabytes of activations, and fresh pages have to be cleared. Peak memory grows a little, by
    blocks that fit nothing. ``keep=False`` goes back to the usual thresholds. A setting of the whole process; elsewhere than under glibc
    nothing happens.
    """
    if _has_glibc():
        for option, value in _KEEPING if keep else _USUAL:
            ctypes.CDLL(None).mallopt(option, value)


def _has_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
