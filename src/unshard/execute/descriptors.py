"""Open files of one thread, the least recently used closed first."""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import Self

MAX_OPEN_FILES = 100
"""Per thread and direction: 992 files and several threads must fit a limit of 1024."""


class Descriptors:
    """File descriptors by path, opened with `flags` when first asked for."""

    def __init__(self, flags: int) -> None:
        self._flags = flags | os.O_CLOEXEC
        self._open: OrderedDict[str, int] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def of(self, path: str) -> int:
        """The descriptor of `path`, valid until the next call."""
        found = self._open.get(path)
        if found is not None:
            self._open.move_to_end(path)
            return found
        if len(self._open) >= MAX_OPEN_FILES:
            os.close(self._open.popitem(last=False)[1])
        self._open[path] = os.open(path, self._flags)
        return self._open[path]
