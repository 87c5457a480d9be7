"""Memory of the process: what a training step frees is kept for the next one."""

import ctypes
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # numbers of <malloc.h>
_USUAL = ((_MMAP_MAX, 65536), (_MMAP_THRESHOLD, 32 * 2**20), (_TRIM_THRESHOLD, 64 * 2**20))
"""Where glibc's own sliding thresholds end up in a process with large tensors."""
_KEEPING = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1))


_GROWTH = 1.25
"""How far memory may grow by blocks that fit nothing before what is free goes back to the system."""


@contextmanager
def freed_memory_kept(*, apart: int = 10) -> Iterator[Callable[[], None]]:
    """Inside the block, freed memory is kept (:func:`keep_freed_memory`); at its end what is free goes back to the system.

    Gives a function to call after every step: steps of ever other sizes leave holes that the next one does not fill, so when the process
    is a quarter larger than a step on fresh memory left it, what is free goes back in between too; at most every ``apart`` steps, because
    the next step then has to fetch its pages again.
    """
    bound, since = 0.0, 0

    def after_step() -> None:
        nonlocal bound, since
        since += 1
        resident = _resident_pages()
        if since == 1:
            bound = max(bound, _GROWTH * resident)
        elif resident > bound and since >= apart:
            _give_back()
            since = 0

    keep_freed_memory()
    try:
        yield after_step
    finally:
        keep_freed_memory(False)
        _give_back()


def keep_freed_memory(keep: bool = True) -> None:
    """Ask glibc's malloc to reuse freed blocks of any size instead of handing them back to the system and fetching fresh pages.

    A training step on a CPU frees and takes gigabytes of activations, and fresh pages have to be cleared. Peak memory grows a little, by
    blocks that fit nothing. ``keep=False`` goes back to the usual thresholds. A setting of the whole process; elsewhere than under glibc
    nothing happens.
    """
    if _has_glibc():
        for option, value in _KEEPING if keep else _USUAL:
            ctypes.CDLL(None).mallopt(option, value)


def _give_back() -> None:
    if _has_glibc():
        ctypes.CDLL(None).malloc_trim(0)


def _resident_pages() -> int:
    """Pages of the process in memory; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def _has_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
