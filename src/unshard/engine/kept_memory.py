"""What a step frees is kept for the next one."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Of glibc's malloc.h, as is their meaning: mallopt(3)."""
LARGEST_KEPT_BYTES = 32 << 20
"""Of one tensor; glibc knows no larger bound."""
MOST_KEPT_BYTES = 256 << 20
"""At the end of a heap."""


def keep_freed_memory() -> None:
    """Does not let glibc give freed tensors back to the system and ask for them again, layer by
    layer: a prompt of 512 tokens took 37,000 new pages, in some processes, a fifth of its time.

    By itself glibc chooses its bounds from what was freed first, so that the order of a process's
    first requests decided. Other C libraries choose as they do.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, LARGEST_KEPT_BYTES)
        mallopt(_TRIM_THRESHOLD, MOST_KEPT_BYTES)
