"""A temporary folder that SIGKILL does not leave behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

MEMORY = Path("/dev/shm")  # noqa: S108 - a folder is made in it by mkdtemp
_REAPER = 'read -r _ || rm -rf -- "$0" || { sleep 5; rm -rf -- "$0"; }'
"""Told nothing, it outlives its parent by one `rm`. The second is for children that still write."""


class Scratch:
    """A folder that goes when this process ends, however it ends, or earlier by `close`.

    A shell waits for the end of a pipe from this process. A child made by `fork` holds it, too.
    """

    def __init__(self, prefix: str, directory: Path | None = None) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=directory))
        watched, self._end = os.pipe()
        command = ["/bin/sh", "-c", _REAPER, str(self.path)]
        self._reaper = subprocess.Popen(  # noqa: S603 - the path is an argument, not a command
            command, stdin=watched, start_new_session=True
        )
        os.close(watched)

    @classmethod
    def in_memory(cls, prefix: str) -> Self:
        """In memory where the system has a file system there."""
        return cls(prefix, MEMORY if MEMORY.is_dir() else None)

    def keep(self) -> None:
        """It stays, for somebody to look at."""
        os.write(self._end, b"\n")
        os.close(self._end)
        self._reaper.wait()

    def close(self) -> None:
        shutil.rmtree(self.path)
        self.keep()

    def __enter__(self) -> Path:
        return self.path

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
