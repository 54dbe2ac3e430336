"""Text out of files, made safe for a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """`text` in one line: a name out of a file may hold line ends and terminal commands."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )
