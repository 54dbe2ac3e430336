"""What is known of files that were hashed before, as it stands in a folder's journal.

Download and verify both write such lines, and each believes the other's. A line holds as long
as the file has the size, the modification time and, where the line has one, the inode that it
had then. Names are those of one folder; the journal lies in it.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from unshard.disk import take_lock
from unshard.manifest import Digest

JOURNAL_NAME = ".unshard-download.jsonl"
MAX_JOURNAL_BYTES = 64 * 2**20
"""Hundreds of runs over a thousand files; a larger file is not believed."""


@dataclass(frozen=True, slots=True)
class Finished:
    """`NAME` had this digest when its size and modification time were these."""

    size_bytes: int
    mtime_ns: int
    digest: Digest
    folder: str = ""
    """Path of the folder in the URL that it came from; "" where that is not known."""
    inode: int | None = None
    """None in lines of earlier versions, which hold for any."""

    @classmethod
    def of(cls, status: os.stat_result, digest: Digest, folder: str = "") -> Self:
        """What to remember of a file that is `status` now."""
        return cls(status.st_size, status.st_mtime_ns, digest, folder, status.st_ino)

    def holds_for(self, status: os.stat_result) -> bool:
        """Whether a file that is `status` now is, as far as that tells, the one meant."""
        return (
            stat.S_ISREG(status.st_mode)
            and (status.st_size, status.st_mtime_ns) == (self.size_bytes, self.mtime_ns)
            and self.inode in (None, status.st_ino)
        )

    def forgotten(self) -> Finished:
        """In its place, what holds for no file."""
        return replace(self, size_bytes=-1)

    def line(self, name: str) -> dict[str, str | int | None]:
        """The journal's line about `name`."""
        return {
            "finished": name,
            "size_bytes": self.size_bytes,
            "mtime_ns": self.mtime_ns,
            "inode": self.inode,
            "algorithm": self.digest.algorithm,
            "digest": self.digest.value,
            "folder": self.folder,
        }


def parse_finished(line: object) -> tuple[str, Finished] | None:
    """The name and the facts in a journal's line, or None when it is about something else."""
    match line:
        case {
            "finished": str(name),
            "size_bytes": int(size),
            "mtime_ns": int(mtime_ns),
            "algorithm": str(algorithm),
            "digest": str(value),
            **rest,
        }:
            inode = rest.get("inode")
            return name, Finished(
                size,
                mtime_ns,
                Digest(algorithm, value),
                str(rest.get("folder", "")),
                inode if isinstance(inode, int) else None,
            )
    return None


def remembered(directory: Path) -> dict[str, Finished]:
    """What the journal of `directory` knows; nothing where there is none that can be read."""
    with contextlib.suppress(OSError), open(directory / JOURNAL_NAME, "rb", opener=_open) as file:
        status = os.fstat(file.fileno())
        if stat.S_ISREG(status.st_mode) and status.st_size <= MAX_JOURNAL_BYTES:
            found = (parse_finished(parse_line(line)) for line in file.read().splitlines())
            return dict(each for each in found if each)
    return {}


def remember(directory: Path, facts: Mapping[str, Finished]) -> None:
    """Append `facts` to the journal of `directory`. Where that cannot be done at once, because
    a download holds it or the folder is read-only, they are let go: it costs time, later."""
    if not facts:
        return
    with (
        contextlib.suppress(OSError),
        open(directory / JOURNAL_NAME, "a+b", buffering=0, opener=_open) as file,
    ):
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return
        take_lock(file.fileno())  # without locks: others append whole lines, too
        end = os.fstat(file.fileno()).st_size
        last = os.pread(file.fileno(), 1, max(0, end - 1))
        lines = "".join(json.dumps(fact.line(name)) + "\n" for name, fact in facts.items())
        file.write(b"\n" * (last not in (b"", b"\n")) + lines.encode())
        os.fsync(file.fileno())


def _open(path: str, flags: int) -> int:
    """Never through a link, never waiting for whoever is at the other end of a pipe."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)


def parse_line(line: bytes) -> Any:
    """What a journal's line says, or None for one that a kill cut short."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None  # what it said is found out again
