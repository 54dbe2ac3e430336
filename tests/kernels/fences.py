"""Memory between pages that nobody may touch: who reads or writes beyond an end dies of it."""

from __future__ import annotations

import ctypes
import mmap
import os
import traceback
import warnings
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

PAGE = mmap.PAGESIZE
_PROT_NONE = 0
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Fenced:
    """Room for one array at a time, right before one fence or right behind the other."""

    def __init__(self, num_pages: int = 512) -> None:
        self._size = num_pages * PAGE
        self._memory = mmap.mmap(-1, self._size + 2 * PAGE)
        start = torch.frombuffer(self._memory, dtype=torch.uint8).data_ptr()
        for fence in (start, start + PAGE + self._size):
            if _LIBC.mprotect(fence, PAGE, _PROT_NONE):
                raise OSError(ctypes.get_errno(), "mprotect")

    def put(self, values: Tensor, *, at_end: bool) -> Tensor:
        """A copy of `values`, whose last number is before a fence or whose first is behind one."""
        start = PAGE + (self._size - values.nbytes if at_end else 0)
        there = torch.frombuffer(
            self._memory, dtype=values.dtype, count=values.numel(), offset=start
        )
        return there.view(values.shape).copy_(values)


def check_in_child(check: Callable[..., None], cases: Iterable[tuple[object, ...]]) -> None:
    """`check` each case, with one thread, in a process that may die of it."""
    with warnings.catch_warnings():
        # Newer Pythons warn of other threads, which the child lacks: it computes with its own.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        code = 1
        try:
            for case in cases:
                check(*case)
            code = 0
        finally:
            if code:
                traceback.print_exc()
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code >= 0, f"beyond an end: killed by signal {-code}"
    assert code == 0, "see what the child printed"
