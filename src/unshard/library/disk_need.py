"""Whether the disks have room for a download and, at the same time, for what is made of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from unshard.errors import NoSpaceError
from unshard.execute.output_file import partial_path
from unshard.manifest import PARTIAL_SUFFIX
from unshard.plan.copy_plan import CopyPlan
from unshard.progress import shown_bytes

BLOCK_BYTES = 512
"""The unit of `st_blocks`, whatever the file system's own is."""


@dataclass(frozen=True, slots=True)
class DiskNeed:
    """Bytes that are still to come to two folders, which may be on one disk."""

    directory: Path
    fetched_bytes: int
    destination: Path
    written_bytes: int
    reclaimed_bytes: int | None = None
    """What lies in `directory` already and goes on the way; None where nothing goes."""

    def refuse_full_disks(self, note: Callable[[str], None]) -> None:
        """Tells how much is needed.

        Raises:
            NoSpaceError: there is less.
        """
        for folder, needed in self._by_disk():
            free = shutil.disk_usage(_existing(folder)).free
            note(f"{folder}: needs about {shown_bytes(needed)} more, {shown_bytes(free)} are free")
            if needed > free:
                raise NoSpaceError(
                    f"{folder}: about {shown_bytes(needed)} are still to come, "
                    f"{shown_bytes(free)} are free",
                    hint="free some space, choose another disk for one of the folders, or "
                    "--reclaim files on the way",
                )

    def _by_disk(self) -> list[tuple[Path, int]]:
        if _device(self.directory) != _device(self.destination):
            return [
                (self.directory, self.fetched_bytes),
                (self.destination, self.written_bytes),
            ]
        if self.reclaimed_bytes is None:
            return [(self.directory, self.fetched_bytes + self.written_bytes)]
        # What is written takes the place of what was fetched.
        needed = max(self.fetched_bytes, self.written_bytes - self.reclaimed_bytes)
        return [(self.directory, needed)]


def bytes_to_fetch(directory: Path, sizes: Iterable[tuple[str, int]]) -> int:
    """How much of files of these names and sizes is not in `directory` yet."""
    return sum(
        max(0, size - allocated(directory / name) - allocated(directory / (name + PARTIAL_SUFFIX)))
        for name, size in sizes
    )


def bytes_to_write(destination: Path, plan: CopyPlan) -> int:
    """How much of the plan's output is not in `destination` yet."""
    return sum(
        max(
            0,
            file.num_bytes
            - allocated(destination / file.name)
            - allocated(partial_path(destination, file.name)),
        )
        for file in plan.files
    )


def allocated(path: Path) -> int:
    """The space that a file takes, holes left out; 0 where there is none."""
    try:
        return path.stat().st_blocks * BLOCK_BYTES
    except FileNotFoundError:
        return 0


def _device(folder: Path) -> int:
    return _existing(folder).stat().st_dev


def _existing(folder: Path) -> Path:
    """The folder itself, or the nearest above it that is there."""
    folder = folder.resolve()
    return next(each for each in (folder, *folder.parents) if each.exists())
