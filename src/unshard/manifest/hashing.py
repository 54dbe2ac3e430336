"""The digest of one file, whose reader wants to hear of every read."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

from unshard.manifest.contents import Digest


def digest_file(path: Path, algorithm: str, advance: Callable[[int], None]) -> Digest:
    """Hash the file `path`; `advance` hears of every read and may raise to stop.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        counted = _CountedReader(file, advance)
        value = hashlib.file_digest(counted, algorithm).hexdigest()
    return Digest(algorithm, value)


class _CountedReader:
    """As much of a binary file as `hashlib.file_digest` asks for, counting what it reads."""

    def __init__(self, file: io.FileIO, advance: Callable[[int], None]) -> None:
        self._file = file
        self._advance = advance

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:
        num_bytes = self._file.readinto(buffer)
        self._advance(num_bytes)
        return num_bytes
