"""Sizes as people type them, times and numbers as they read them."""

from __future__ import annotations

import re

import click

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
BINARY_UNITS = {"ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30, "ti": 1 << 40}
MAX_SIZE = 1 << 60
PATTERN = re.compile(r"^(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?$", re.IGNORECASE)


class ByteCount(click.ParamType[int]):
    """A number of bytes: `5000000`, `5GB` (10^9 each), `500MiB` (2^20 each)."""

    name = "size"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """The size in bytes; click's usage error (exit 2) when it is none."""
        if isinstance(value, int):
            return value
        match = PATTERN.match(str(value).strip())
        if match is None:
            self.fail(f"{value!r} is no size such as 500MB, 5GB or 2GiB", param, ctx)
        number, unit = float(match[1]), (match[2] or "").lower()
        size = number * (UNITS | BINARY_UNITS)[unit]
        if size > MAX_SIZE:
            self.fail(f"{value!r} is more than any disk holds", param, ctx)
        return int(size)


def counted(count: int, noun: str) -> str:
    """`1 file`, `3 files`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def format_duration(seconds: float) -> str:
    """`45 s`, `12 min`, `4 h 05 min`, `31 h`, `4.2 days`: no finer than an estimate deserves."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 10 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    if minutes < 48 * 60:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 86400:.1f} days"
