"""Decoding a pickle into inert records. Nothing is imported, called or built.

The opcodes are those that Python's pickler writes in protocols 2 to 5; the text opcodes
of protocol 0 and everything that instantiates by other means (INST, OBJ, EXT*) are
refused. String and tuple identity is kept as the memo says, because `pickle_encode`
reproduces sharing by identity. Format: Python's `pickletools`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from unshard.errors import FormatError
from unshard.formats.allowed_globals import is_allowed
from unshard.formats.records import Global, PersistentId, PickledObject

HIGHEST_PROTOCOL = 5
MAX_INTEGER_BYTES = 64


class _MalformedError(Exception):
    """The pickle breaks its own rules; the text says how. Becomes a `FormatError`."""


class _Mark:
    """Marks a place on the stack; no pickle can name it."""


_MARK = _Mark()


def decode_pickle(data: bytes, path: str) -> Any:
    """The object that `data` describes, as plain data and inert records.

    Raises:
        FormatError: the pickle is damaged, uses an opcode that no checkpoint needs, or
            mentions a global outside the allow list. `path` names the file in it.
    """
    machine = _Machine(data)
    try:
        return machine.run()
    except _MalformedError as problem:
        raise FormatError(path, f"pickle at byte {machine.at}: {problem}") from None
    except (IndexError, KeyError, struct.error, UnicodeDecodeError, TypeError) as problem:
        raise FormatError(
            path, f"pickle is damaged at byte {machine.at} ({type(problem).__name__})"
        ) from None


class _Machine:
    """The pickle virtual machine, with a stack and a memo of inert values."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.globals: dict[tuple[str, str], Global] = {}

    def run(self) -> Any:
        data, operations = self.data, OPERATIONS
        while True:
            opcode = data[self.at]
            self.at += 1
            if opcode == STOP:
                break
            operation = operations.get(opcode)
            if operation is None:
                raise _MalformedError(f"opcode 0x{opcode:02x} has no place in a checkpoint")
            operation(self)
        if len(self.stack) != 1:
            raise _MalformedError("ends with more or less than one object")
        return self.pop()

    # Reading operands.

    def take(self, count: int) -> bytes:
        piece = self.data[self.at : self.at + count]
        if len(piece) != count:
            raise _MalformedError("ends in the middle of a value")
        self.at += count
        return piece

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def line(self) -> str:
        end = self.data.index(b"\n", self.at) if b"\n" in self.data[self.at : self.at + 512] else -1
        if end < 0:
            raise _MalformedError("a name does not end")
        text = self.data[self.at : end].decode("utf-8")
        self.at = end + 1
        return text

    # The stack.

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise _MalformedError("a mark stands where a value belongs")
        return value

    def top(self) -> Any:
        value = self.stack[-1]
        if value is _MARK:
            raise _MalformedError("a mark stands where a value belongs")
        return value

    def pop_to_mark(self) -> list[Any]:
        stack = self.stack
        for at in range(len(stack) - 1, -1, -1):
            if stack[at] is _MARK:
                values = stack[at + 1 :]
                del stack[at:]
                return values
        raise _MalformedError("no mark to go back to")

    # Operations that need more than a line.

    def push_global(self, module: str, name: str) -> None:
        found = self.globals.get((module, name))
        if found is None:
            found = Global(module, name)
            if not is_allowed(found):
                raise _MalformedError(
                    f"mentions {module}.{name}, which no checkpoint needs: the file may be hostile "
                    "(nothing of it was executed)"
                )
            self.globals[(module, name)] = found
        self.push(found)

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        if not (isinstance(module, str) and isinstance(name, str)):
            raise _MalformedError("a global has no name")
        self.push_global(module, name)

    def construct(self, by_new: bool) -> None:
        args, constructor = self.pop(), self.pop()
        if not isinstance(constructor, Global) or not isinstance(args, tuple):
            raise _MalformedError("calls something that is not a name")
        self.push(PickledObject(constructor, args, by_new=by_new))

    def build(self) -> None:
        state, target = self.pop(), self.top()
        if not isinstance(target, PickledObject) or target.has_state:
            raise _MalformedError("gives state to a value that takes none")
        target.state, target.has_state = state, True

    def append(self, values: list[Any]) -> None:
        target = self.top()
        if isinstance(target, PickledObject):
            target.items.extend(values)
        elif isinstance(target, list):
            target.extend(values)
        else:
            raise _MalformedError("appends to a value that is no list")

    def set_items(self, values: list[Any]) -> None:
        target = self.top()
        entries = target.entries if isinstance(target, PickledObject) else target
        if not isinstance(entries, dict) or len(values) % 2:
            raise _MalformedError("sets items of a value that is no dict")
        _refuse_deep_keys(values[::2])
        entries.update(zip(values[::2], values[1::2], strict=True))

    def add_items(self, values: list[Any]) -> None:
        target = self.top()
        if not isinstance(target, set):
            raise _MalformedError("adds to a value that is no set")
        _refuse_deep_keys(values)
        target.update(values)

    def integer(self, size: int) -> None:
        if size > MAX_INTEGER_BYTES:
            raise _MalformedError(f"holds an integer of {size} bytes")
        self.push(int.from_bytes(self.take(size), "little", signed=True))

    def tuple_of(self, count: int) -> None:
        values = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(values)))

    def protocol(self) -> None:
        if self.number(1) > HIGHEST_PROTOCOL:
            raise _MalformedError("is of an unknown protocol")

    def frozenset_of(self) -> None:
        values = self.pop_to_mark()
        _refuse_deep_keys(values)
        self.push(frozenset(values))

    def discard(self) -> None:
        self.stack.pop()


def _refuse_deep_keys(keys: list[Any]) -> None:
    """Hashing a key walks all of it: nested tuples that share their parts take for ever."""
    for key in keys:
        if isinstance(key, tuple | frozenset) and not all(
            isinstance(part, str | bytes | int | float | None) for part in key
        ):
            raise _MalformedError("uses a nested value as a key")


STOP = ord(".")

OPERATIONS: dict[int, Callable[[_Machine], object]] = {
    0x80: _Machine.protocol,
    0x95: lambda m: m.take(8),  # FRAME: a hint for reading ahead
    # scalars
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    ord("K"): lambda m: m.push(m.number(1)),
    ord("M"): lambda m: m.push(m.number(2)),
    ord("J"): lambda m: m.integer(4),
    0x8A: lambda m: m.integer(m.number(1)),
    0x8B: lambda m: m.integer(m.number(4)),
    ord("G"): lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    # strings and bytes
    ord("X"): lambda m: m.push(m.take(m.number(4)).decode("utf-8", "surrogatepass")),
    0x8C: lambda m: m.push(m.take(m.number(1)).decode("utf-8", "surrogatepass")),
    0x8D: lambda m: m.push(m.take(m.number(8)).decode("utf-8", "surrogatepass")),
    ord("U"): lambda m: m.push(m.take(m.number(1)).decode("latin-1")),
    ord("T"): lambda m: m.push(m.take(m.number(4)).decode("latin-1")),
    ord("C"): lambda m: m.push(m.take(m.number(1))),
    ord("B"): lambda m: m.push(m.take(m.number(4))),
    0x8E: lambda m: m.push(m.take(m.number(8))),
    0x96: lambda m: m.push(bytearray(m.take(m.number(8)))),
    # containers
    ord(")"): lambda m: m.push(()),
    0x85: lambda m: m.tuple_of(1),
    0x86: lambda m: m.tuple_of(2),
    0x87: lambda m: m.tuple_of(3),
    ord("t"): lambda m: m.push(tuple(m.pop_to_mark())),
    ord("]"): lambda m: m.push([]),
    ord("l"): lambda m: m.push(m.pop_to_mark()),
    ord("a"): lambda m: m.append([m.pop()]),
    ord("e"): lambda m: m.append(m.pop_to_mark()),
    ord("}"): lambda m: m.push({}),
    ord("s"): lambda m: m.set_items([m.pop(), m.pop()][::-1]),
    ord("u"): lambda m: m.set_items(m.pop_to_mark()),
    0x8F: lambda m: m.push(set()),
    0x90: lambda m: m.add_items(m.pop_to_mark()),
    0x91: _Machine.frozenset_of,
    # the stack and the memo
    ord("("): lambda m: m.push(_MARK),
    ord("0"): _Machine.discard,
    ord("1"): lambda m: m.pop_to_mark(),
    ord("2"): lambda m: m.push(m.top()),
    ord("q"): lambda m: m.memo.__setitem__(m.number(1), m.top()),
    ord("r"): lambda m: m.memo.__setitem__(m.number(4), m.top()),
    0x94: lambda m: m.memo.__setitem__(len(m.memo), m.top()),
    ord("h"): lambda m: m.push(m.memo[m.number(1)]),
    ord("j"): lambda m: m.push(m.memo[m.number(4)]),
    # names and objects, which stay inert
    ord("c"): lambda m: m.push_global(m.line(), m.line()),
    0x93: _Machine.stack_global,
    ord("Q"): lambda m: m.push(PersistentId(m.pop())),
    ord("R"): lambda m: m.construct(by_new=False),
    0x81: lambda m: m.construct(by_new=True),
    ord("b"): _Machine.build,
}
