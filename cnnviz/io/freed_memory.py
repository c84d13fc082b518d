"""Memory that was freed stays with the process: glibc gives it back to the system, and asks for it again.

Each photograph takes and frees some tens of arrays of a megabyte. What comes back from the system comes as pages of
zeros that fault one by one: a fifth of the time of drawing small photographs (measured: 650,000 faults in an audit of
80, 240,000 without).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Mapping

# Numbers of mallopt(3), and bytes: larger arrays still come from the system, and go back to it. Threads other than the
# first have heaps of 64 MiB; one that is empty is given back whole, whatever the other limits say, unless less than the
# padding is free in it and in the heap before it. So the padding is that of two heaps: addresses, no memory.
_TRIM, _TOP_PAD, _MMAP = (-1, 256 << 20), (-2, 128 << 20), (-3, 64 << 20)


def keep_freed_memory(environment: Mapping[str, str] = os.environ) -> bool:
    """Keep what is freed, for the whole process; nothing where its user chose an allocator, or there is no glibc.

    Returns:
        Whether it was done.
    """
    chosen = any(name.startswith("MALLOC_") or name in ("LD_PRELOAD", "GLIBC_TUNABLES") for name in environment)
    if chosen or sys.platform != "linux":
        return False
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 - others have no such numbers
        return all(library.mallopt(name, value) for name, value in (_TRIM, _TOP_PAD, _MMAP))
    return False
