"""Writing inert records as a pickle, opcode for opcode as Python's C pickler does.

Protocol 2, as `torch.save` uses. Every value that the C pickler memoizes is memoized in
the same order, by identity, so that decoding and encoding a file gives its bytes again.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

from unshard.errors import UsageError
from unshard.formats.records import Global, PersistentId, PickledObject

BATCH = 1000
"""The C pickler writes dict items and list elements in groups of this many."""


def encode_pickle(
    value: Any, persistent_id: Callable[[PersistentId], Any] = lambda record: record.value
) -> bytes:
    """The protocol-2 pickle of plain data and inert records.

    `persistent_id` says, in pickling order, what to write for a reference out of the
    pickle; by default what it held.

    Raises:
        UsageError: `value` holds an object that is neither.
    """
    encoder = _Encoder(persistent_id)
    encoder.out += b"\x80\x02"
    encoder.save(value)
    encoder.out += b"."
    return bytes(encoder.out)


class _Encoder:
    def __init__(self, persistent_id: Callable[[PersistentId], Any]) -> None:
        self.persistent_id = persistent_id
        self.out = bytearray()
        self.memo: dict[int, int] = {}
        self.globals: dict[Global, Global] = {}
        self.alive: list[Any] = []
        """Keeps memoized values alive, because the memo knows them by `id` only."""

    def save(self, value: Any) -> None:
        if value is None or value is True or value is False:
            self.out += b"N" if value is None else b"\x88" if value else b"\x89"
        elif isinstance(value, int):
            self.save_int(value)
        elif isinstance(value, float):
            self.out += b"G" + struct.pack(">d", value)
        elif isinstance(value, PersistentId):
            self.save(self.persistent_id(value))
            self.out += b"Q"
        elif isinstance(value, tuple) and not value:
            self.out += b")"  # the empty tuple is never memoized
        elif isinstance(value, Global):
            self.save_global(value)
        elif id(value) in self.memo:
            self.recall(value)
        else:
            self.save_new(value)

    def save_new(self, value: Any) -> None:
        match value:
            case str():
                raw = value.encode("utf-8", "surrogatepass")
                self.out += b"X" + struct.pack("<I", len(raw)) + raw
                self.memoize(value)
            case tuple():
                self.save_tuple(value)
            case list():
                self.out += b"]"
                self.memoize(value)
                self.save_elements(value)
            case dict():
                self.out += b"}"
                self.memoize(value)
                self.save_entries(value)
            case PickledObject():
                self.save_object(value)
            case _:
                raise UsageError(f"a pickle cannot hold {type(value).__name__} here")

    # The memo.

    def memoize(self, value: Any) -> None:
        index = len(self.memo)
        self.memo[id(value)] = index
        self.alive.append(value)
        self.out += b"q" + bytes([index]) if index < 256 else b"r" + struct.pack("<I", index)

    def recall(self, value: Any) -> None:
        index = self.memo[id(value)]
        self.out += b"h" + bytes([index]) if index < 256 else b"j" + struct.pack("<I", index)

    # Values of several parts.

    def save_global(self, value: Global) -> None:
        """A class is one object however often it is named, so its name stands for it."""
        value = self.globals.setdefault(value, value)
        if id(value) in self.memo:
            self.recall(value)
            return
        self.out += f"c{value.module}\n{value.name}\n".encode()
        self.memoize(value)

    def save_int(self, value: int) -> None:
        if 0 <= value < 1 << 8:
            self.out += b"K" + bytes([value])
        elif 0 <= value < 1 << 16:
            self.out += b"M" + struct.pack("<H", value)
        elif -(1 << 31) <= value < 1 << 31:
            self.out += b"J" + struct.pack("<i", value)
        else:
            raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            if value < 0 and len(raw) > 1 and raw[-1] == 0xFF and raw[-2] & 0x80:
                raw = raw[:-1]
            self.out += b"\x8a" + bytes([len(raw)]) + raw

    def save_tuple(self, value: tuple[Any, ...]) -> None:
        few = len(value) <= 3
        if not few:
            self.out += b"("
        for element in value:
            self.save(element)
        if id(value) in self.memo:  # it holds itself: an element memoized it
            self.out += b"0" * len(value) if few else b"1"
            self.recall(value)
            return
        self.out += b"\x85\x86\x87"[len(value) - 1 : len(value)] if few else b"t"
        self.memoize(value)

    def save_elements(self, values: list[Any]) -> None:
        """An exact list: one element alone, else groups of 1000, the last one however short."""
        if len(values) == 1:
            self.save_group(values, b"a", marked=False)
            return
        for at in range(0, len(values), BATCH):
            self.save_group(values[at : at + BATCH], b"e", marked=True)

    def save_entries(self, entries: dict[Any, Any]) -> None:
        """An exact dict: one item alone, else groups of 1000, an exact multiple one more."""
        pairs = list(entries.items())
        if len(pairs) == 1:
            self.save_group(pairs[0], b"s", marked=False)
            return
        for at in range(0, len(pairs) + 1 if pairs else 0, BATCH):
            self.save_group(chain(*pairs[at : at + BATCH]), b"u", marked=True)

    def save_group(self, values: Iterable[Any], opcode: bytes, *, marked: bool) -> None:
        if marked:
            self.out += b"("
        for value in values:
            self.save(value)
        self.out += opcode

    def save_object(self, value: PickledObject) -> None:
        """What a subclass of list or dict holds comes from an iterator: a last group of one is
        bare."""
        self.save(value.constructor)
        self.save(value.args)
        self.out += b"\x81" if value.by_new else b"R"
        self.memoize(value)
        for at in range(0, len(value.items), BATCH):
            group = value.items[at : at + BATCH]
            alone = len(group) == 1
            self.save_group(group, b"a" if alone else b"e", marked=not alone)
        pairs = list(value.entries.items())
        for at in range(0, len(pairs), BATCH):
            alone = at + 1 == len(pairs)
            self.save_group(
                chain(*pairs[at : at + BATCH]), b"s" if alone else b"u", marked=not alone
            )
        if value.has_state:
            self.save(value.state)
            self.out += b"b"
