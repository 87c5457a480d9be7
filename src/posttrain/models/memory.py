"""Memory of the process: what a training step frees is kept for the next one."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # numbers of <malloc.h>
_LARGEST = 2**31 - 1  # mallopt takes an int; larger blocks are still mapped one by one
_DEFAULT_TRIM, _DEFAULT_MMAP = 64 * 2**20, 32 * 2**20  # where glibc's own sliding thresholds end up in a process with large tensors


def keep_freed_memory(keep: bool = True) -> bool:
    """Ask glibc's malloc to reuse freed blocks of any size instead of handing them back to the system and fetching fresh pages.

    A training step on a CPU frees and takes gigabytes of activations; touching fresh pages costs about half a second a GB, an eighth of
    a step. Peak memory grows a little with fragmentation. ``keep=False`` goes back to the usual thresholds. Returns whether the C library
    took it; elsewhere than under glibc nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    trim, mapped = (_LARGEST, _LARGEST) if keep else (_DEFAULT_TRIM, _DEFAULT_MMAP)
    return bool(mallopt(_TRIM_THRESHOLD, trim)) and bool(mallopt(_MMAP_THRESHOLD, mapped))
