"""Opcodes that push one value of their operand alone: numbers, texts, bytes.

Format: Python's `pickletools`.
"""

from __future__ import annotations

import re
import struct
import sys
from collections.abc import Callable
from typing import Any

from unshard.formats.pickle_machine import OBJECT_BYTES, Machine, MalformedError, Operation

MAX_INTEGER_BYTES = 64
MAX_WIDE_TEXT_BYTES = 1 << 20
WIDE = re.compile(rb"[\xc4-\xff]")
"""The first byte of a character beyond U+00FF, which takes up to four bytes in memory."""


def _byte(machine: Machine, at: int) -> int:
    machine.stack.append(machine.data[at])
    return at + 1


def _number(layout: str) -> Operation:
    """A number of fixed width."""
    number = struct.Struct(layout)
    unpack, width = number.unpack_from, number.size

    def push(machine: Machine, at: int) -> int:
        machine.stack.append(unpack(machine.data, at)[0])
        return at + width

    return push


def _sized(width: int, decode: Callable[[Machine, bytes], Any]) -> Operation:
    """A value whose length stands before it in `width` bytes."""

    def push(machine: Machine, at: int) -> int:
        start = at + width
        end = start + int.from_bytes(machine.data[at:start], "little")
        if end > len(machine.data):
            raise MalformedError("ends in the middle of a value")
        machine.stack.append(decode(machine, machine.data[start:end]))
        return end

    return push


def _integer(_machine: Machine, raw: bytes) -> int:
    if len(raw) > MAX_INTEGER_BYTES:
        raise MalformedError(f"holds an integer of {len(raw)} bytes")
    return int.from_bytes(raw, "little", signed=True)


def _text(machine: Machine, raw: bytes) -> str:
    if len(raw) > MAX_WIDE_TEXT_BYTES and WIDE.search(raw):
        raise MalformedError(f"holds a text of {len(raw)} bytes beyond Latin-1")
    text = raw.decode("utf-8", "surrogatepass")
    machine.spend(sys.getsizeof(text))
    return text


def _latin(machine: Machine, raw: bytes) -> str:
    machine.spend(len(raw))
    return raw.decode("latin-1")


def _bytes(machine: Machine, raw: bytes) -> bytes:
    machine.spend(len(raw))
    return raw


def _bytearray(machine: Machine, raw: bytes) -> bytearray:
    machine.spend(OBJECT_BYTES + len(raw))
    return bytearray(raw)


LEAVES: dict[int, Operation] = {
    ord("K"): _byte,
    ord("M"): _number("<H"),
    ord("J"): _number("<i"),
    0x8A: _sized(1, _integer),
    0x8B: _sized(4, _integer),
    ord("G"): _number(">d"),
    ord("X"): _sized(4, _text),
    0x8C: _sized(1, _text),
    0x8D: _sized(8, _text),
    ord("U"): _sized(1, _latin),
    ord("T"): _sized(4, _latin),
    ord("C"): _sized(1, _bytes),
    ord("B"): _sized(4, _bytes),
    0x8E: _sized(8, _bytes),
    0x96: _sized(8, _bytearray),
}
