"""Times as people read them."""

from __future__ import annotations


def format_duration(seconds: float) -> str:
    """`45 s`, `12 min`, `31 h 05 min`: no finer than an estimate deserves."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
