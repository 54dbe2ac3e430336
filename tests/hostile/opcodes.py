"""Assembling pickles by hand, as an attacker does."""

from __future__ import annotations

import struct

EMPTY = b"\x80\x02}."
ORDERED_DICT = b"ccollections\nOrderedDict\n"
NAMESPACE = b"cargparse\nNamespace\n"


def text(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def short_text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def integer(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def put(index: int) -> bytes:
    return b"r" + struct.pack("<I", index)


def get(index: int) -> bytes:
    return b"j" + struct.pack("<I", index)


def pickle(*pieces: bytes, protocol: int = 2) -> bytes:
    return b"\x80" + bytes([protocol]) + b"".join(pieces) + b"."


def storage(
    key: str = "0", kind: str = "FloatStorage", count: bytes = b"K\x04", location: str = "cpu"
) -> bytes:
    """The persistent id of a storage of 4 floats."""
    named = text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text(location)
    return b"(" + named + count + b"tQ"


def tensor(
    size: bytes = b"K\x04\x85",
    stride: bytes = b"K\x01\x85",
    offset: bytes = b"K\x00",
    where: bytes | None = None,
    call: str = "_rebuild_tensor_v2",
) -> bytes:
    """A tensor of 4 floats, the whole of its storage."""
    where = storage() if where is None else where
    args = b"(" + where + offset + size + stride + b"\x89" + ORDERED_DICT + b")Rt"
    return f"ctorch._utils\n{call}\n".encode() + args + b"R"


def shared(levels: int, double: bytes = b"2\x86", seed: bytes = b")") -> bytes:
    """2^levels leaves in `2 * levels` bytes."""
    return seed + double * levels


def doubled(levels: int, seed: bytes, level: bytes) -> bytes:
    """`level` holds its predecessor, %(it)b, twice; `seed` is the first."""
    return seed + b"".join(put(n) + b"0" + level % {b"it": get(n)} for n in range(levels))
