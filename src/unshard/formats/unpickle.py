"""Decoding a pickle into inert records. Nothing is imported, called or built.

String and tuple identity is kept as the memo says, because `pickle_encode` reproduces
sharing by identity. Format: Python's `pickletools`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from unshard.errors import FormatError
from unshard.formats.pickle_machine import MAX_OPCODES, Machine, MalformedError, Operation
from unshard.formats.pickle_opcodes import OPERATIONS, STOP


def decode_pickle(data: bytes, path: str, operations: Mapping[int, Operation] = OPERATIONS) -> Any:
    """The object that `data` describes, as plain data and inert records.

    Takes time and memory in proportion to `data`, and both are bounded: see `Machine`.

    Raises:
        FormatError: the pickle is damaged, uses an opcode that no checkpoint needs, or
            mentions a global outside the allow list. `path` names the file in it.
    """
    machine = Machine(data)
    at = 0
    try:
        for _ in range(MAX_OPCODES):
            opcode = data[at]
            at += 1
            if opcode == STOP:
                return _result(machine)
            operation = operations.get(opcode)
            if operation is None:
                raise MalformedError(f"opcode 0x{opcode:02x} has no place in a checkpoint")
            at = operation(machine, at)
        raise MalformedError(f"has more than {MAX_OPCODES} opcodes, as no checkpoint needs")
    except MalformedError as problem:
        raise FormatError(path, f"pickle at byte {at}: {problem}") from None
    except (IndexError, KeyError, struct.error, UnicodeDecodeError) as problem:
        raise FormatError(
            path, f"pickle is damaged at byte {at} ({type(problem).__name__})"
        ) from None


def _result(machine: Machine) -> Any:
    if machine.marks or len(machine.stack) != 1:
        raise MalformedError("ends with more or less than one object")
    return machine.stack[0]
