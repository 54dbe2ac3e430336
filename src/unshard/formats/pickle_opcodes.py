"""What each opcode does to the machine: one function each, from position to next position.

They are those that Python's pickler writes in protocols 2 to 5; the text opcodes of
protocol 0 and all that instantiate by other means (INST, OBJ, NEWOBJ_EX, EXT*) have no
function, and so are refused. Format: Python's `pickletools`.
"""

from __future__ import annotations

import struct
from typing import Any

from unshard.formats.pickle_leaves import LEAVES
from unshard.formats.pickle_machine import OBJECT_BYTES, Machine, MalformedError, Operation
from unshard.formats.records import Global, PersistentId, PickledObject

HIGHEST_PROTOCOL = 5
MAX_GLOBAL_BYTES = 512

_U32 = struct.Struct("<I").unpack_from


def _constant(value: Any) -> Operation:
    def push(machine: Machine, at: int) -> int:
        machine.stack.append(value)
        return at

    return push


def _protocol(machine: Machine, at: int) -> int:
    if machine.data[at] > HIGHEST_PROTOCOL:
        raise MalformedError("is of an unknown protocol")
    return at + 1


# Containers.


def _empty_list(machine: Machine, at: int) -> int:
    machine.stack.append([])
    return at


def _empty_dict(machine: Machine, at: int) -> int:
    machine.stack.append({})
    return at


def _empty_set(machine: Machine, at: int) -> int:
    machine.spend(OBJECT_BYTES)
    machine.stack.append(set())
    return at


def _tuple_of(count: int) -> Operation:
    def push(machine: Machine, at: int) -> int:
        stack = machine.stack
        if len(stack) < count:
            raise MalformedError("a tuple lacks elements")
        stack[-count:] = [tuple(stack[-count:])]
        return at

    return push


def _tuple(machine: Machine, at: int) -> int:
    values = machine.pop_to_mark()
    machine.stack.append(tuple(values))
    return at


def _list(machine: Machine, at: int) -> int:
    values = machine.pop_to_mark()
    machine.stack.append(values)
    return at


def _frozenset(machine: Machine, at: int) -> int:
    values = machine.keys(machine.pop_to_mark())
    machine.spend(OBJECT_BYTES)
    machine.stack.append(frozenset(values))
    return at


def _append(machine: Machine, at: int) -> int:
    value = machine.stack.pop()
    _extend(machine.stack[-1], [value])
    return at


def _appends(machine: Machine, at: int) -> int:
    values = machine.pop_to_mark()
    _extend(machine.stack[-1], values)
    return at


def _extend(target: object, values: list[Any]) -> None:
    if isinstance(target, PickledObject):
        target = target.items
    if not isinstance(target, list):
        raise MalformedError("appends to a value that is no list")
    target.extend(values)


def _set_item(machine: Machine, at: int) -> int:
    value, key = machine.stack.pop(), machine.stack.pop()
    _update(machine, [key, value])
    return at


def _set_items(machine: Machine, at: int) -> int:
    _update(machine, machine.pop_to_mark())
    return at


def _update(machine: Machine, values: list[Any]) -> None:
    target = machine.stack[-1]
    entries = target.entries if isinstance(target, PickledObject) else target
    if not isinstance(entries, dict) or len(values) % 2:
        raise MalformedError("sets items of a value that is no dict")
    entries.update(zip(machine.keys(values[::2]), values[1::2], strict=True))


def _add_items(machine: Machine, at: int) -> int:
    values = machine.keys(machine.pop_to_mark())
    target = machine.stack[-1]
    if not isinstance(target, set):
        raise MalformedError("adds to a value that is no set")
    target.update(values)
    return at


# The stack and the memo.


def _mark(machine: Machine, at: int) -> int:
    machine.marks.append(machine.stack)
    machine.stack = []
    return at


def _pop(machine: Machine, at: int) -> int:
    machine.stack.pop()
    return at


def _pop_mark(machine: Machine, at: int) -> int:
    machine.pop_to_mark()
    return at


def _duplicate(machine: Machine, at: int) -> int:
    machine.stack.append(machine.stack[-1])
    return at


def _put_byte(machine: Machine, at: int) -> int:
    machine.memo[machine.data[at]] = machine.stack[-1]
    return at + 1


def _put_u32(machine: Machine, at: int) -> int:
    machine.memo[_U32(machine.data, at)[0]] = machine.stack[-1]
    return at + 4


def _memoize(machine: Machine, at: int) -> int:
    machine.memo[len(machine.memo)] = machine.stack[-1]
    return at


def _get_byte(machine: Machine, at: int) -> int:
    machine.stack.append(machine.memo[machine.data[at]])
    return at + 1


def _get_u32(machine: Machine, at: int) -> int:
    machine.stack.append(machine.memo[_U32(machine.data, at)[0]])
    return at + 4


# Names and objects, which stay inert.


def _global(machine: Machine, at: int) -> int:
    module, at = _line(machine.data, at)
    name, at = _line(machine.data, at)
    machine.push_global(module, name)
    return at


def _line(data: bytes, at: int) -> tuple[str, int]:
    end = data.find(b"\n", at, at + MAX_GLOBAL_BYTES)
    if end < 0:
        raise MalformedError("a name does not end")
    return data[at:end].decode("utf-8"), end + 1


def _stack_global(machine: Machine, at: int) -> int:
    name, module = machine.stack.pop(), machine.stack.pop()
    if not (isinstance(module, str) and isinstance(name, str)):
        raise MalformedError("a global has no name")
    if len(module) + len(name) > MAX_GLOBAL_BYTES:
        raise MalformedError("a name does not end")
    machine.push_global(module, name)
    return at


def _persistent_id(machine: Machine, at: int) -> int:
    machine.stack[-1] = PersistentId(machine.stack[-1])
    return at


def _construct(by_new: bool) -> Operation:
    def push(machine: Machine, at: int) -> int:
        args, constructor = machine.stack.pop(), machine.stack.pop()
        if not isinstance(constructor, Global) or not isinstance(args, tuple):
            raise MalformedError("calls something that is not a name")
        machine.spend(OBJECT_BYTES)
        machine.stack.append(PickledObject(constructor, args, by_new=by_new))
        return at

    return push


def _build(machine: Machine, at: int) -> int:
    state, target = machine.stack.pop(), machine.stack[-1]
    if not isinstance(target, PickledObject) or target.has_state:
        raise MalformedError("gives state to a value that takes none")
    target.state, target.has_state = state, True
    return at


def _frame(machine: Machine, at: int) -> int:
    """A hint for reading ahead."""
    if at + 8 > len(machine.data):
        raise MalformedError("ends in the middle of a value")
    return at + 8


STOP = ord(".")

OPERATIONS: dict[int, Operation] = {
    **LEAVES,
    0x80: _protocol,
    0x95: _frame,
    ord("N"): _constant(None),
    0x88: _constant(True),
    0x89: _constant(False),
    ord(")"): _constant(()),
    0x85: _tuple_of(1),
    0x86: _tuple_of(2),
    0x87: _tuple_of(3),
    ord("t"): _tuple,
    ord("]"): _empty_list,
    ord("l"): _list,
    ord("a"): _append,
    ord("e"): _appends,
    ord("}"): _empty_dict,
    ord("s"): _set_item,
    ord("u"): _set_items,
    0x8F: _empty_set,
    0x90: _add_items,
    0x91: _frozenset,
    ord("("): _mark,
    ord("0"): _pop,
    ord("1"): _pop_mark,
    ord("2"): _duplicate,
    ord("q"): _put_byte,
    ord("r"): _put_u32,
    0x94: _memoize,
    ord("h"): _get_byte,
    ord("j"): _get_u32,
    ord("c"): _global,
    0x93: _stack_global,
    ord("Q"): _persistent_id,
    ord("R"): _construct(by_new=False),
    0x81: _construct(by_new=True),
    ord("b"): _build,
}
