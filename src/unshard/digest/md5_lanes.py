"""MD5 of many files at once: one file to each lane of the kernel, the next when it ends."""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from unshard.digest.lanes import NUM_LANES
from unshard.digest.md5_kernel import BLOCK_BYTES, compress
from unshard.digest.queue import Queue, open_file

READ_BYTES = 2**18
"""Of each file at a time; 16 files of two workers keep 8 MiB."""

_ROW_BYTES = READ_BYTES + 2 * BLOCK_BYTES
"""A read and the padding after the last one."""
_INITIAL_STATE = (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476)


@dataclass(slots=True)
class _Message:
    """An open file; `num_bytes` of it were read, and so many blocks lie in the row unhashed."""

    path: Path
    fd: int
    num_bytes: int = 0
    num_blocks: int = 0
    is_read: bool = False


class Lanes:
    """One worker's lanes: hashes files of `queue`, at most `max_lanes` at a time."""

    def __init__(self, queue: Queue, max_lanes: int) -> None:
        self._queue = queue
        rows = (ctypes.c_char * _ROW_BYTES * NUM_LANES)()
        self._rows = [memoryview(row).cast("B") for row in rows]
        self._begins = [ctypes.addressof(row) for row in rows]
        self._places = (ctypes.c_uint64 * NUM_LANES)(*self._begins)
        self._state = (ctypes.c_uint32 * (4 * NUM_LANES))()
        self._free = list(range(min(max_lanes, NUM_LANES)))
        self._busy: dict[int, _Message] = {}

    def run(self) -> None:
        """Hash until the queue is empty.

        Raises:
            whatever the queue's `advance` raises.
        """
        try:
            while self._fill():
                self._compress(min(message.num_blocks for message in self._busy.values()))
        finally:
            for message in self._busy.values():
                os.close(message.fd)

    def _fill(self) -> bool:
        """Give every lane blocks to hash, as long as there are any; whether one has."""
        for lane, message in list(self._busy.items()):
            if not message.num_blocks:
                self._refill(lane, message)
        while self._free and (path := self._queue.take()):
            self._begin(path)
        return bool(self._busy)

    def _begin(self, path: Path) -> None:
        try:
            message = _Message(path, open_file(path))
        except OSError as error:
            self._queue.settle(path, error)
            return
        lane = self._free.pop()
        self._busy[lane] = message
        self._state[lane::NUM_LANES] = [*_INITIAL_STATE]
        self._refill(lane, message)

    def _refill(self, lane: int, message: _Message) -> None:
        if message.is_read:
            self._end(lane, struct.pack("<4I", *self._state[lane::NUM_LANES]).hex())
            return
        try:
            num_bytes = _read(message.fd, self._rows[lane][:READ_BYTES])
        except OSError as error:
            self._end(lane, error)
            return
        self._queue.advance(num_bytes)
        message.num_bytes += num_bytes
        if num_bytes < READ_BYTES:
            num_bytes += self._pad(lane, num_bytes, message.num_bytes)
            message.is_read = True
        message.num_blocks = num_bytes // BLOCK_BYTES
        self._places[lane] = self._begins[lane]

    def _pad(self, lane: int, at: int, message_bytes: int) -> int:
        """Append the padding of a message after byte `at` of the row; its length."""
        num_zeros = (-at - 9) % BLOCK_BYTES
        length = (message_bytes * 8 % 2**64).to_bytes(8, "little")
        padding = b"\x80" + bytes(num_zeros) + length
        self._rows[lane][at : at + len(padding)] = padding
        return len(padding)

    def _end(self, lane: int, result: str | OSError) -> None:
        message = self._busy.pop(lane)
        self._free.append(lane)
        os.close(message.fd)
        self._queue.settle(message.path, result)

    def _compress(self, num_blocks: int) -> None:
        """Lanes without a message hash what lies in their row; nobody looks at it."""
        for lane in range(NUM_LANES):
            if lane not in self._busy:
                self._places[lane] = self._begins[lane]
        compress(self._state, self._places, num_blocks)
        for lane, message in self._busy.items():
            message.num_blocks -= num_blocks
            self._places[lane] += num_blocks * BLOCK_BYTES


def _read(fd: int, row: memoryview) -> int:
    """Fill `row` as far as the file goes; the number of bytes."""
    num_bytes = 0
    while num_bytes < len(row) and (count := os.readv(fd, [row[num_bytes:]])):
        num_bytes += count
    return num_bytes
