"""Text and numbers as HTML. Whatever comes out of a file goes through `escape`."""

from __future__ import annotations

import html
import math


def escape(text: str) -> str:
    """`text` with nothing left that HTML could take for markup, in elements and attributes."""
    return html.escape(text, quote=True)


def number(value: float, digits: int = 3) -> str:
    """A few digits, as short as they get: `0.0201`, `1.2e−07`, `−3`."""
    if math.isnan(value):
        return "NaN"
    return f"{value:.{digits}g}".replace("-", "\N{MINUS SIGN}")
