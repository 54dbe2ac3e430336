"""The record `.data/serialization_id` of archives that today's torch writes.

40 digits: a hash of the other records' names, then one of their CRC-32s, both as 64-bit
numbers in 20 digits. torch walks the names in the order of a `std::unordered_set`, so this
follows GNU's C++ library: its string hash, its bucket counts and where it puts an element.
Sources: torch's PyTorchStreamWriter; libstdc++'s hash_bytes.cc and hashtable.h.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

RECORD = ".data/serialization_id"
NUM_BYTES = 40
WORD = (1 << 64) - 1
MULTIPLIER = 0xC6A4A7935BD1E995
SEED = 0xC70F6907
BUCKET_COUNTS = (
    13, 29, 59, 127, 257, 541, 1109, 2357, 5087, 10273, 20753, 42043, 85229, 172933,
)  # fmt: skip
"""How a set grows: from each of these to the next once every bucket could hold one element."""


def serialization_id(checksums: Mapping[str, int]) -> bytes:
    """The record's content for an archive whose other records, in the order of the file and
    without its root folder, have these CRC-32s."""
    names = _combined(map(string_hash, iteration_order(checksums)))
    return b"%020d%020d" % (names, _combined(checksums.values()))


def _combined(values: Iterable[int]) -> int:
    """Boost's way to make one hash of several."""
    seed = 0
    for value in values:
        seed ^= (value + 0x9E3779B9 + (seed << 6) + (seed >> 2)) & WORD
    return seed


def string_hash(text: str) -> int:
    """libstdc++'s `std::hash<std::string>`: a MurmurHash of 64 bits."""
    data = text.encode()
    state = SEED ^ (len(data) * MULTIPLIER & WORD)
    whole = len(data) & ~7
    for at in range(0, whole, 8):
        word = int.from_bytes(data[at : at + 8], "little")
        state = (state ^ _mixed(word * MULTIPLIER & WORD) * MULTIPLIER) * MULTIPLIER & WORD
    if len(data) > whole:
        state = (state ^ int.from_bytes(data[whole:], "little")) * MULTIPLIER & WORD
    return _mixed(_mixed(state) * MULTIPLIER & WORD)


def _mixed(value: int) -> int:
    return value ^ (value >> 47)


def iteration_order(names: Iterable[str]) -> list[str]:
    """The order in which libstdc++ walks a set that `names` were inserted into.

    An element goes to the front of its bucket, and a new bucket to the front of all.
    """
    counts = iter(BUCKET_COUNTS)
    count = next(counts)
    buckets: dict[int, list[str]] = {}
    for size, name in enumerate(names):
        if size == count:
            count, kept = next(counts), _walked(buckets)
            buckets = {}
            for old in kept:
                buckets.setdefault(string_hash(old) % count, []).append(old)
        buckets.setdefault(string_hash(name) % count, []).append(name)
    return _walked(buckets)


def _walked(buckets: Mapping[int, list[str]]) -> list[str]:
    return [name for bucket in reversed([*buckets.values()]) for name in reversed(bucket)]
