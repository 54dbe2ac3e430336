"""Which values may be keys of a dict or elements of a set.

Python hashes integers and tuples by fixed formulas, so that a file can hold any number of
keys with one hash, and each then takes as long as all before it together. Strings are
hashed with a secret. What is allowed here takes a bounded time each.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from unshard.formats.records import Global, PersistentId, PickledObject

MAX_LENGTH = 1024
"""Of a string; equal strings are compared to their ends, every time."""
MAX_PARTS = 16
MAX_INTEGER = 1 << 31
"""Larger ones leave room to construct collisions."""


class UnfitKeyError(Exception):
    """A key that no checkpoint needs; the text says why."""


def check_keys(keys: Iterable[Any]) -> None:
    """Accepts what can be hashed and compared at once.

    Raises:
        UnfitKeyError: some key cannot.
    """
    for key in keys:
        if type(key) is str and len(key) <= MAX_LENGTH:
            continue
        if type(key) is tuple:
            _check_parts(key)
        elif not _is_quick(key) and not isinstance(key, float | Global | PickledObject):
            raise UnfitKeyError(f"uses {_described(key)} as a key")


def _check_parts(key: tuple[Any, ...]) -> None:
    if len(key) > MAX_PARTS or not all(_is_quick(part) for part in key):
        raise UnfitKeyError("uses a nested, long or large value as a key")


def _is_quick(value: object) -> bool:
    if isinstance(value, str | bytes):
        return len(value) <= MAX_LENGTH
    if isinstance(value, int):
        return -MAX_INTEGER <= value <= MAX_INTEGER
    return value is None or isinstance(value, PersistentId)


def _described(key: object) -> str:
    if isinstance(key, str | bytes):
        return f"a string of {len(key)} characters"
    return "a large integer" if isinstance(key, int) else f"a {type(key).__name__}"
