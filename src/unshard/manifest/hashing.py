"""The digest of one file, whose reader wants to hear of every read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from unshard.digest import hash_file
from unshard.manifest.contents import Digest


def digest_file(path: Path, algorithm: str, advance: Callable[[int], None]) -> Digest:
    """Hash the file `path`; `advance` hears of every read and may raise to stop.

    Raises:
        OSError: the file cannot be read.
    """
    value = hash_file(path, algorithm, advance=advance)
    if isinstance(value, OSError):
        raise value
    return Digest(algorithm, value)
