"""Giving back the disk space of source files while they are resharded.

Bytes go only after what was made of them is synced and proved: first each record of a file, as
a hole, once all of it was read and its checksum held, then the file itself. The plan is kept
beside the output until the end, because the source files can no longer tell it.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unshard.errors import FormatError, UsageError
from unshard.execute.output_file import growing, write_whole
from unshard.execute.source_check import SourceCheck
from unshard.execute.tasks import CopyTask
from unshard.plan.copy_plan import CopyPlan
from unshard.plan.plan_json import plan_from_json, plan_to_json
from unshard.tensors import StoredRecord

NAME = ".unshard.plan.json"
PUNCH_HOLE = 0x02 | 0x01
"""Linux's FALLOC_FL_PUNCH_HOLE, which goes with FALLOC_FL_KEEP_SIZE."""
NEGLIGIBLE_BYTES = 1 << 20
"""Random states and meters, which no layout but metaseq's carries along, are smaller."""


@dataclass(frozen=True)
class Reclaiming:
    """A plan whose source `files` are to be deleted on the way."""

    plan: CopyPlan
    files: tuple[str, ...]
    folder: str = field(default_factory=os.getcwd)
    """Where it was begun: paths may be relative to it."""
    announce: Callable[[], None] = lambda: None
    """Called before the first of them goes."""


def unfinished(directory: Path) -> Reclaiming | None:
    """The reshard with reclaim that was stopped in `directory`, if there is one.

    Raises:
        FormatError: what is kept of it is no such plan, or names files that are not its source's.
    """
    path = directory / NAME
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, RecursionError):  # cut short: then nothing was deleted yet
        return None
    try:
        plan, folder = plan_from_json(content["plan"]), str(Path(content["folder"]))
        files = tuple(str(Path(file)) for file in content["files"])
        home = _folder_of(Path(folder, plan.source))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(
            path,
            "is no plan of a reshard with --reclaim",
            hint="without it what was deleted cannot be read: put back a copy of it, or take it "
            "away if nothing was begun here",
        ) from error
    for file in files:
        if not Path(folder, file).parent.resolve().is_relative_to(home):
            raise FormatError(
                path,
                f"is to delete {file}, which is not of {plan.source}",
                hint="take it away: no reshard writes such",
            )
    return Reclaiming(plan, files, folder)


def _folder_of(source: Path) -> Path:
    """The folder that a checkpoint's files are in, which are given by it, by a pattern or by one
    of them."""
    if source.is_dir():
        return source.resolve()
    while any(sign in str(source.parent) for sign in "*?["):
        source = source.parent
    return source.parent.resolve()


def refuse_losses(reclaiming: Reclaiming) -> None:
    """
    Raises:
        UsageError: a file holds more than the output will, or has another name.
    """
    files = frozenset(reclaiming.files)
    for path in reclaiming.files:
        _refuse_other_names(Path(path))
    for record in SourceCheck(reclaiming.plan).unread():
        if record.path in files and record.length > NEGLIGIBLE_BYTES:
            raise UsageError(
                f"{record.path}: record {record.name} ({record.length} bytes) has no place in "
                "the output, so deleting the file would lose it",
                hint="keep the optimizer's state too (--to metaseq --optimizer keep), or leave "
                "out --reclaim",
            )


class Reclaimer:
    """Deletes source files piece by piece, behind the tasks that have copied them."""

    def __init__(self, reclaiming: Reclaiming, directory: Path, tasks: Sequence[CopyTask]) -> None:
        self._reclaiming = reclaiming
        self._path = directory / NAME
        self._waiting: dict[str, set[int]] = {path: set() for path in reclaiming.files}
        for task in tasks:
            read = {piece.path for piece in reclaiming.plan.sources[task.source].ranges()}
            for path in read & self._waiting.keys():
                self._waiting[path].add(task.number)

    def begin(self) -> None:
        """Announces what will be deleted, and keeps the plan, durably.

        Raises:
            NoSpaceError, DestinationError: the plan cannot be written.
        """
        self._reclaiming.announce()
        content = {
            "plan": plan_to_json(self._reclaiming.plan),
            "files": self._reclaiming.files,
            "folder": self._reclaiming.folder,
        }
        with growing(self._path) as file:
            write_whole(file, self._path, json.dumps(content).encode())

    def release(self, tasks: Iterable[int], records: Iterable[StoredRecord]) -> None:
        """Gives back records that were proved, and files that no task still needs."""
        finished = set(tasks)
        for record in records:
            if record.path in self._waiting:
                _punch(record)
        for path in list(self._waiting):
            self._waiting[path] -= finished
            if not self._waiting[path]:
                del self._waiting[path]
                Path(path).unlink(missing_ok=True)

    def end(self) -> None:
        """Forgets the plan: the output is whole."""
        self._path.unlink(missing_ok=True)


def _refuse_other_names(path: Path) -> None:
    """Holes show under every name of a file, and a link's own space is nothing."""
    try:
        state = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISLNK(state.st_mode) or state.st_nlink > 1:
        kind = "is a symbolic link" if stat.S_ISLNK(state.st_mode) else "has hard links"
        raise UsageError(
            f"{path}: {kind}: deleting what it holds would change the file under its other name",
            hint="leave out --reclaim, or name the folder that holds the files themselves",
        )


_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def _punch(record: StoredRecord) -> None:
    """Makes a hole of the record where the file system can; else its file goes as a whole."""
    try:
        file = os.open(record.path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        if _libc.fallocate(file, PUNCH_HOLE, record.offset, record.length):
            code = ctypes.get_errno()
            if code not in (errno.EOPNOTSUPP, errno.ENOSYS):
                raise OSError(code, os.strerror(code), record.path)
    finally:
        os.close(file)
