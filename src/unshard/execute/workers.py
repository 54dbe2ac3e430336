"""How many threads copy, and how much memory they may take."""

from __future__ import annotations

import os

from unshard.errors import UsageError

BLOCK_BYTES = 1 << 20
"""Larger blocks fall out of the processor's cache and are slower."""
DEFAULT_WORKERS = min(4, os.cpu_count() or 1)
DEFAULT_MEMORY_BYTES = 256_000_000
BASE_BYTES = 96_000_000
"""The interpreter, its packages, and a plan of ordinary size."""
BLOCKS_PER_WORKER = 6
"""A block, its gathered parts, a copy to compare, tiles of slices, a cast and a part of it."""
MIN_BLOCK_BYTES = 64 << 10


def block_bytes(memory_bytes: int, workers: int) -> int:
    """The size of the blocks with which `workers` threads keep to `memory_bytes`.

    Raises:
        UsageError: it is too little for any block.
    """
    share = (memory_bytes - BASE_BYTES) // (BLOCKS_PER_WORKER * workers)
    if share < MIN_BLOCK_BYTES:
        least = BASE_BYTES + BLOCKS_PER_WORKER * workers * MIN_BLOCK_BYTES
        raise UsageError(
            f"{memory_bytes} bytes of memory are too little for {workers} workers",
            hint=f"give at least {-(-least // 1_000_000)}MB, or fewer workers",
        )
    return min(BLOCK_BYTES, share)


def peak_buffer_bytes(workers: int, block: int = BLOCK_BYTES) -> int:
    """Memory that the buffers of `workers` threads take at most (bytes)."""
    return BLOCKS_PER_WORKER * block * workers
