"""Parsing a JSON object that somebody else wrote, without believing that it is a sane one."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from unshard.errors import FormatError

MAX_JSON_BYTES = 10_000_000
MAX_JSON_VALUES = 400_000
"""Counted by commas and brackets, before anything is parsed: a value takes up to a hundred
times the bytes of its text."""


def parse_json_object(path: str, raw: bytes, subject: str = "") -> dict[str, Any]:
    """The object that `raw`, of at most `MAX_JSON_BYTES`, describes. Stricter than Python's
    parser: UTF-8 only, no key twice, no NaN.

    Raises:
        FormatError: it is none, or holds too much; `subject` says what of the file it is.
    """

    def fault(problem: str) -> FormatError:
        return FormatError(path, f"{subject} {problem}".lstrip())

    def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries = dict(pairs)
        if len(entries) != len(pairs):
            raise fault("names a key twice")
        return entries

    def refuse(constant: str) -> NoReturn:
        raise fault(f"holds {constant}, which is not JSON")

    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > MAX_JSON_VALUES:
        raise fault(f"holds more than {MAX_JSON_VALUES} values")
    try:
        found = json.loads(
            raw.decode("utf-8"), object_pairs_hook=without_duplicates, parse_constant=refuse
        )
    except (ValueError, RecursionError):
        raise fault("is not valid JSON") from None
    if not isinstance(found, dict):
        raise fault("is not a JSON object")
    return found
