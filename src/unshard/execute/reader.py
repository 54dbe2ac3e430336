"""Reading the bytes of a `TensorRef` into memory that the caller owns."""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import Self

from unshard.errors import FormatError
from unshard.index.slices import slice_ranges
from unshard.tensors import TensorRef

MAX_OPEN_FILES = 128
"""Per reader; 992 files and several threads must fit a common limit of 1024 descriptors."""


class Reader:
    """Open files by path, the least recently used closed first. Not for several threads."""

    def __init__(self) -> None:
        self._descriptors: OrderedDict[str, int] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def read_into(self, ref: TensorRef, start: int, target: memoryview) -> None:
        """Fills `target` with bytes `[start, start + len(target))` of the tensor.

        Raises:
            FormatError: a file ends before the bytes that its header promised.
        """
        at = 0
        for piece in slice_ranges(ref.ranges, start, len(target)):
            part = target[at : at + piece.length]
            offset = piece.offset
            while part:
                count = os.preadv(self._descriptor(piece.path), [part], offset)
                if count == 0:
                    raise FormatError(
                        piece.path, f"ends before byte {offset}, inside tensor {ref.name}"
                    )
                part, offset = part[count:], offset + count
            at += piece.length

    def _descriptor(self, path: str) -> int:
        found = self._descriptors.get(path)
        if found is not None:
            self._descriptors.move_to_end(path)
            return found
        if len(self._descriptors) >= MAX_OPEN_FILES:
            os.close(self._descriptors.popitem(last=False)[1])
        self._descriptors[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return self._descriptors[path]
