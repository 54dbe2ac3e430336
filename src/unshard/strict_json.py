"""Parsing a JSON object that somebody else wrote, without believing that it is a sane one."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from unshard.errors import FormatError

MAX_JSON_BYTES = 10_000_000
MAX_JSON_VALUES = 400_000
"""Counted by commas and brackets, before anything is parsed: a value takes up to a hundred
times the bytes of its text."""


def has_too_many_values(raw: bytes) -> bool:
    """Whether `raw` may hold more than `MAX_JSON_VALUES`."""
    return raw.count(b",") + raw.count(b"[") + raw.count(b"{") > MAX_JSON_VALUES


def unrepeated(pairs: list[tuple[str, Any]], twice: Callable[[str], Exception]) -> dict[str, Any]:
    """The entries of an object, for `object_pairs_hook`.

    Raises:
        Exception: what `twice` makes of the first key that is there again.
    """
    entries: dict[str, Any] = {}
    for key, value in pairs:
        if key in entries:
            raise twice(key)
        entries[key] = value
    return entries


def parse_json_object(path: str, raw: bytes, subject: str = "") -> dict[str, Any]:
    """The object that `raw`, of at most `MAX_JSON_BYTES`, describes. Stricter than Python's
    parser: UTF-8 only, no key twice, no NaN.

    Raises:
        FormatError: it is none, or holds too much; `subject` says what of the file it is.
    """

    def fault(problem: str) -> FormatError:
        return FormatError(path, f"{subject} {problem}".lstrip())

    def twice(_key: str) -> FormatError:
        return fault("names a key twice")

    def refuse(constant: str) -> NoReturn:
        raise fault(f"holds {constant}, which is not JSON")

    if has_too_many_values(raw):
        raise fault(f"holds more than {MAX_JSON_VALUES} values")
    try:
        found = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=partial(unrepeated, twice=twice),
            parse_constant=refuse,
        )
    except (ValueError, RecursionError):
        raise fault("is not valid JSON") from None
    if not isinstance(found, dict):
        raise fault("is not a JSON object")
    return found
