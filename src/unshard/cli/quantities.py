"""Sizes as people type and read them."""

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


def format_bytes(count: int) -> str:
    """A size for people, in decimal units: `7.6 MB`."""
    size = float(count)
    if count < 1000:
        return f"{count} bytes"
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.95:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} TB"


def counted(count: int, noun: str) -> str:
    """`1 file`, `3 files`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
