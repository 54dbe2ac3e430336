"""Whether there are SIMD lanes here, without loading LLVM before they are wanted."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

from unshard.digest.queue import Queue

NUM_LANES = 16
"""A 512-bit register of 32-bit words, or two of 256 bits. 32 lanes were not faster."""


def has_lanes(algorithm: str) -> bool:
    """Whether many large files are hashed by SIMD lanes. Loads LLVM and makes the kernel
    to find out."""
    return algorithm == "md5" and _lanes() is not None


def lane_worker(queue: Queue, max_lanes: int) -> Callable[[], None] | None:
    """A worker that hashes up to `max_lanes` files of `queue` at a time, or None: no lanes."""
    lanes = _lanes()
    return None if lanes is None else lambda: lanes(queue, max_lanes).run()


@cache
def _lanes() -> Any:
    """The class `md5_lanes.Lanes`; None where llvmlite is missing or broken."""
    if sys.byteorder != "little":
        return None
    try:
        return importlib.import_module("unshard.digest.md5_lanes").Lanes
    except Exception:  # noqa: BLE001 - whatever is wrong with llvmlite, hashlib gives the same digests
        return None
