"""Memory that the ranks of one machine share: each puts its numbers there, and reads the others'.

One exchange takes some 10 µs, where a message through gloo takes hundreds.
"""

from __future__ import annotations

import mmap
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import torch
from torch import Tensor

from unshard.errors import WorkerLostError
from unshard.kernels.library import Library
from unshard.parallel.place import SILENCE_SECONDS

SLOT_BYTES = 1 << 20
"""Of a rank's numbers at a time; larger tensors go in pieces."""
_LINE_BYTES = 64
_TOKEN_BYTES = 16
_PATIENCE_NS = 100_000_000
"""After so long a rank looks whether the one that it waits for is still alive."""


class SharedMemory:
    """This rank's side of the memory; all ranks call `exchange` in the same order.

    A rank's numbers lie in one of two slots by turns, so that it can go on while others still read
    the last ones: when it comes back to a slot, all have gone on too.
    """

    def __init__(self, descriptor: int, rank: int, size: int, library: Library) -> None:
        """`descriptor` is of a file of `num_bytes(size)`, zeros but for its token."""
        self._file = mmap.mmap(descriptor, num_bytes(size))
        memory = torch.frombuffer(self._file, dtype=torch.uint8)
        self._counters = memory.data_ptr() + _LINE_BYTES
        self._pids = memory[_LINE_BYTES * (1 + size) : _slots_offset(size)].view(torch.int64)
        self._pids[rank] = os.getpid()
        self._slots = memory[_slots_offset(size) :].view(2, size, SLOT_BYTES)
        self._views: dict[torch.dtype, Tensor] = {}
        self._rank = rank
        self._size = size
        self._turn = 0
        self._meet = library.meet

    def pieces(self, x: Tensor, check: Callable[[], None]) -> Iterator[tuple[Tensor, Tensor]]:
        """Of contiguous `x`, the same in shape and dtype on all ranks, run after run (n,) with
        all ranks' (size, n), which stay until the next but one. `check` raises if a rank is lost.

        Raises:
            WorkerLostError: a rank ended, or said nothing for too long.
        """
        view = self._views.get(x.dtype)
        if view is None:
            with torch.inference_mode(False):  # or it could be written only in that mode
                view = self._views[x.dtype] = self._slots.view(x.dtype)
        flat, most = x.view(-1), SLOT_BYTES // x.itemsize
        for start in range(0, len(flat), most):
            piece = flat[start : start + most]
            self._turn += 1
            parts = view[self._turn % 2, :, : len(piece)]
            parts[self._rank].copy_(piece)
            self._wait(check)
            yield piece, parts

    def _wait(self, check: Callable[[], None]) -> None:
        deadline = time.monotonic() + SILENCE_SECONDS
        while (late := self._late(_PATIENCE_NS)) is not None:
            check()
            # One that has said its last word may end before it is heard.
            if not _is_alive(int(self._pids[late])) and self._late(0) == late:
                raise WorkerLostError(f"rank {late} of {self._size} has ended")
            if time.monotonic() > deadline:
                raise WorkerLostError(
                    f"rank {late} of {self._size} said nothing for {SILENCE_SECONDS} s"
                )

    def _late(self, patience_ns: int) -> int | None:
        """A rank that has not come to this turn after so long; None once all have."""
        turn = self._turn % 2**32
        late: int = self._meet(self._counters, self._size, self._rank, turn, patience_ns)
        return None if late < 0 else late


def create(size: int) -> tuple[int, str]:
    """A file that is nowhere but in memory, and gone with the last who has it open.

    Returns:
        Its descriptor, and what `find` needs to be told in another process.
    """
    descriptor = os.memfd_create("unshard-ranks")
    os.truncate(descriptor, num_bytes(size))
    token = secrets.token_bytes(_TOKEN_BYTES)
    os.pwrite(descriptor, token, 0)
    return descriptor, f"{os.getpid()} {descriptor} {token.hex()}"


def find(told: str) -> int | None:
    """The descriptor of the file that another process of this machine created; None where it is
    none of this machine's, or another user's."""
    pid, number, token = told.split()
    with suppress(OSError):
        descriptor = os.open(f"/proc/{int(pid)}/fd/{int(number)}", os.O_RDWR | os.O_CLOEXEC)
        if os.pread(descriptor, _TOKEN_BYTES, 0).hex() == token:
            return descriptor
        os.close(descriptor)
    return None


def num_bytes(size: int) -> int:
    """Of the file for `size` ranks: token, counters, processes, slots."""
    return _slots_offset(size) + 2 * size * SLOT_BYTES


def _slots_offset(size: int) -> int:
    return -(-(_LINE_BYTES * (1 + size) + 8 * size) // mmap.PAGESIZE) * mmap.PAGESIZE


def _is_alive(pid: int) -> bool:
    """Also where it has not come so far as to say who it is."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
