"""CRC-32s of byte ranges that are met piece by piece, in any order."""

from __future__ import annotations

from collections.abc import Iterator

from isal import isal_zlib

crc32 = isal_zlib.crc32
combine = isal_zlib.crc32_combine

Summed = tuple[int, int, int]
"""Offset and length in bytes, CRC-32."""


class RangeChecksums:
    """Disjoint ranges of one file or record with their CRC-32s; neighbours are joined."""

    def __init__(self) -> None:
        self._starts: dict[int, tuple[int, int]] = {}
        self._ends: dict[int, int] = {}

    def add(self, offset: int, length: int, crc: int) -> None:
        """Takes in the range `[offset, offset + length)`."""
        if not length:
            return
        before = self._ends.pop(offset, None)
        if before is not None:
            length_before, crc_before = self._starts.pop(before)
            crc = combine(crc_before, crc, length)
            offset, length = before, length_before + length
        self._insert(offset, length, crc)

    def see(self, offset: int, data: memoryview) -> None:
        """Takes in bytes that were met at `offset`."""
        before = self._ends.pop(offset, None)
        if before is None:
            self.add(offset, len(data), crc32(data))
            return
        length, crc = self._starts.pop(before)
        self._insert(before, length + len(data), crc32(data, crc))

    def _insert(self, offset: int, length: int, crc: int) -> None:
        """Puts in a range that nothing ends at, joined with one that begins where it ends."""
        after = self._starts.pop(offset + length, None)
        if after is not None:
            del self._ends[offset + length + after[0]]
            crc = combine(crc, after[1], after[0])
            length += after[0]
        self._starts[offset] = (length, crc)
        self._ends[offset + length] = offset

    def __iter__(self) -> Iterator[Summed]:
        for offset, (length, crc) in self._starts.items():
            yield offset, length, crc

    def of(self, offset: int, length: int) -> int | None:
        """The CRC-32 of exactly this range, or None while it is not known as a whole."""
        if not length:
            return 0
        found = self._starts.get(offset)
        return found[1] if found and found[0] == length else None
