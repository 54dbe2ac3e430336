"""Files with a wrong bit."""

from __future__ import annotations

from pathlib import Path


def flip(path: Path, offset: int) -> None:
    """Changes the lowest bit of the byte at `offset`."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))
