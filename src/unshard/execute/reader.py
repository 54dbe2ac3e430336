"""Reading the bytes of a `TensorRef` into memory that the caller owns."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Self

from unshard.errors import FormatError
from unshard.execute.descriptors import Descriptors
from unshard.index.slices import slice_ranges
from unshard.tensors import TensorRef

Observer = Callable[[str, int, memoryview], None]
"""Hears of every read: path, offset in the file, the bytes."""


class Reader:
    """Reads through a bounded number of open files. Not for several threads."""

    def __init__(self, observe: Observer | None = None) -> None:
        self._files = Descriptors(os.O_RDONLY)
        self._observe = observe

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._files.__exit__(*exception)

    def read_into(self, ref: TensorRef, start: int, target: memoryview) -> None:
        """Fills `target` with bytes `[start, start + len(target))` of the tensor.

        Raises:
            FormatError: a file ends before the bytes that its header promised.
        """
        at = 0
        for piece in slice_ranges(ref.ranges, start, len(target)):
            part = target[at : at + piece.length]
            self._read(ref.name, piece.path, piece.offset, part)
            if self._observe is not None:
                self._observe(piece.path, piece.offset, part)
            at += piece.length

    def _read(self, name: str, path: str, offset: int, target: memoryview) -> None:
        descriptor = self._files.of(path)
        while target:
            count = os.preadv(descriptor, [target], offset)
            if count == 0:
                raise FormatError(path, f"ends before byte {offset}, inside tensor {name}")
            target, offset = target[count:], offset + count
