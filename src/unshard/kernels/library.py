"""The compiled library, loaded once, and the level of it that this processor runs."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch

from unshard.errors import UsageError
from unshard.kernels.build import library_path

SWITCH = "UNSHARD_KERNELS"
"""Environment variable: `off`, or the name of a level to force, for comparison."""


class Library:
    """The compiled kernels at one level."""

    __slots__ = ("attention", "dense", "level", "linear", "meet", "norm", "number", "stack")

    def __init__(self, handle: ctypes.CDLL, number: int, level: str) -> None:
        self.number = number
        self.level = level
        self.attention = handle.unshard_attention
        self.dense = handle.unshard_dense
        self.linear = handle.unshard_linear
        self.meet = handle.unshard_meet
        self.norm = handle.unshard_norm
        self.stack = handle.unshard_stack


@cache
def kernels() -> Library | None:
    """The compiled kernels, or None: never compiled, compiled from other sources, or `off`. The
    switch is read once: every linear layer asks, some microseconds each time.

    Raises:
        UsageError: `UNSHARD_KERNELS` names a level that there is not here.
    """
    wanted, path = os.environ.get(SWITCH, ""), library_path()
    if wanted == "off" or not path.exists():
        return None
    try:
        handle = _open(path)
    except OSError:
        return None  # of another C library, for one: it is as if not compiled
    levels = dict(_levels(handle))
    name = wanted or next(iter(levels))
    if name not in levels:
        raise UsageError(
            f"{SWITCH}: no level {wanted!r} here", hint=f"use off, {', '.join(levels)} or nothing"
        )
    return Library(handle, levels[name], name)


def compiled() -> Library:
    """The compiled kernels, where there are some.

    Raises:
        UsageError: there are none.
    """
    library = kernels()
    if library is None:
        raise UsageError(
            "the native kernels are not compiled", hint="python -m unshard.kernels compiles them"
        )
    return library


def levels() -> list[str]:
    """Names of the levels that run here, the fastest first; none where nothing is compiled."""
    path = library_path()
    return [name for name, _ in _levels(_open(path))] if path.exists() else []


def _levels(handle: ctypes.CDLL) -> Iterator[tuple[str, int]]:
    number = 0
    while (name := handle.unshard_level(number)) is not None:
        if name:
            yield name.decode(), number
        number += 1


@cache
def _open(path: Path) -> ctypes.CDLL:
    handle = ctypes.CDLL(str(path))
    i64, i32, pointer = ctypes.c_int64, ctypes.c_int, ctypes.c_void_p
    handle.unshard_level.argtypes = [i32]
    handle.unshard_level.restype = ctypes.c_char_p
    handle.unshard_attention.argtypes = [i32, i64, pointer]
    handle.unshard_attention.restype = None
    handle.unshard_linear.argtypes = [i32, i64, pointer, pointer, pointer, i64, i32, i32]
    handle.unshard_linear.restype = i32
    handle.unshard_dense.argtypes = [i32, i64, *[pointer] * 4, *[i64] * 3, i32, i32]
    handle.unshard_dense.restype = None
    handle.unshard_norm.argtypes = [i32, i64, pointer, i64]
    handle.unshard_norm.restype = None
    handle.unshard_stack.argtypes = [i32, i64, pointer]
    handle.unshard_stack.restype = i32
    handle.unshard_meet.argtypes = [pointer, i64, i64, ctypes.c_uint32, i64]
    handle.unshard_meet.restype = i64
    handle.unshard_use_threads.argtypes = [pointer]
    handle.unshard_use_threads.restype = None
    handle.unshard_use_threads(_torch_threads())
    return handle


def _torch_threads() -> ctypes._Pointer[ctypes.c_char] | ctypes.c_void_p | None:
    """Entry of the OpenMP runtime that torch loaded; None (one thread) where it is not found."""
    torch.get_num_threads()
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.split(maxsplit=5)[5:]
        if path and Path(path[0]).name.startswith(("libgomp", "libomp", "libiomp")):
            return ctypes.cast(ctypes.CDLL(path[0]).GOMP_parallel, ctypes.c_void_p)
    return None
