"""The state of the pickle machine while it decodes, and what bounds its work and memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from unshard.formats.allowed_globals import is_allowed
from unshard.formats.pickle_keys import UnfitKeyError, check_keys
from unshard.formats.records import Global

MAX_OPCODES = 300_000
"""Ten times what the largest model's file holds, and decoded within a second."""
MAX_VALUE_BYTES = 64 << 20
"""Memory of a pickle's strings, sets and objects; beside it come the pickle itself and what
so many opcodes can make of other values."""
MAX_GLOBALS = 1000
OBJECT_BYTES = 256
"""At least what a set or a record takes."""


class MalformedError(Exception):
    """The pickle breaks its own rules; the text says how. Becomes a `FormatError`."""


class Machine:
    """A stack, a memo and the pickle's bytes. Values are plain data and inert records."""

    __slots__ = ("data", "globals", "marks", "memo", "spent_bytes", "stack")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        """The stacks below each mark, as Python's own machine keeps them."""
        self.memo: dict[int, Any] = {}
        self.globals: dict[tuple[str, str], Global] = {}
        self.spent_bytes = 0

    def spend(self, num_bytes: int) -> None:
        self.spent_bytes += num_bytes
        if self.spent_bytes > MAX_VALUE_BYTES:
            raise MalformedError("holds more than a checkpoint's memory beside its tensors")

    def pop_to_mark(self) -> list[Any]:
        values = self.stack
        self.stack = self.marks.pop()
        return values

    def push_global(self, module: str, name: str) -> None:
        """A name stays a name; every mention of it is the same record."""
        found = self.globals.get((module, name))
        if found is None:
            found = Global(module, name)
            if not is_allowed(found):
                raise MalformedError(
                    f"mentions {found}, which no checkpoint needs: the file may be hostile "
                    "(nothing of it was executed)"
                )
            if len(self.globals) == MAX_GLOBALS:
                raise MalformedError(f"mentions more than {MAX_GLOBALS} names")
            self.globals[(module, name)] = found
        self.stack.append(found)

    def keys(self, values: list[Any]) -> list[Any]:
        """`values`, all fit to be keys."""
        try:
            check_keys(values)
        except UnfitKeyError as problem:
            raise MalformedError(str(problem)) from None
        return values


Operation = Callable[[Machine, int], int]
"""What one opcode does: takes the position behind it, returns that of the next."""
