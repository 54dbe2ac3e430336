"""How deep and how large a decoded value is, when shared parts count wherever they appear.

A pickle of some kilobytes can describe a list of two lists of the same two lists, and so on:
2^60 elements to whoever walks it without care. Nor does a stack machine mind a million nested
lists, while most code that walks values does. Here both are found out in one pass that is
proportional to the pickle.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from unshard.errors import FormatError
from unshard.formats.records import Global, children

MAX_NESTING = 100
"""Far more than any trainer's state has, far less than Python's recursion limit allows."""
MAX_UNFOLDED = 2_000_000
"""Values; text counts one more for each `TEXT_UNIT` characters."""
TEXT_UNIT = 32

_LEAVES = frozenset({type(None), bool, int, float, Global})
_TEXT = frozenset({str, bytes, bytearray})
_OPEN = (0, 0)
"""What a value that is still being walked adds where it holds itself: nothing."""


def check_extent(value: Any, path: str) -> None:
    """Accepts a value that can be walked as if it were a tree. Holding itself is no fault.

    Raises:
        FormatError: it nests deeper than `MAX_NESTING`, or unfolds to more than
            `MAX_UNFOLDED` values. `path` names the file in it.
    """
    measured: dict[int, tuple[int, int]] = {}
    walk = [_Visit((value,), children((value,)))]
    while walk:
        visit = walk[-1]
        child = _next_unmeasured(visit, measured)
        if visit.size > MAX_UNFOLDED:
            raise FormatError(path, f"its pickle unfolds to more than {MAX_UNFOLDED} values")
        if child is None:
            walk.pop()
            measured[id(visit.value)] = visit.depth, visit.size
        else:
            measured[id(child)] = _OPEN
            visit = _Visit(child, children(child))
            walk.append(visit)
        if len(walk) + visit.depth > MAX_NESTING:
            raise FormatError(path, f"its pickle nests values more than {MAX_NESTING} deep")
        if child is None and walk:
            walk[-1].add(visit.depth, visit.size)


class _Visit:
    """A container whose children are being measured."""

    __slots__ = ("depth", "rest", "size", "value")

    def __init__(self, value: Any, rest: Iterator[Any]) -> None:
        self.value, self.rest = value, rest
        self.depth, self.size = 0, 1

    def add(self, depth: int, size: int) -> None:
        if depth >= self.depth:
            self.depth = depth + 1
        self.size += size


def _next_unmeasured(visit: _Visit, measured: dict[int, tuple[int, int]]) -> Any:
    """Adds children up to the first container that nobody has measured, or None."""
    for child in visit.rest:
        kind = type(child)
        if kind in _LEAVES:
            visit.size += 1
        elif kind in _TEXT:
            visit.size += 1 + len(child) // TEXT_UNIT
        elif not child:  # an empty container
            visit.add(0, 1)
        elif (known := measured.get(id(child))) is not None:
            visit.add(*known)
        else:
            return child
    return None
