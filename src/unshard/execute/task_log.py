"""What of an unfinished reshard is safely on the disk, task by task."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from unshard.disk import sync_directory
from unshard.execute.copy import TaskResult
from unshard.execute.output_file import write_all, write_error
from unshard.execute.tasks import CopyTask

NAME = ".unshard.tasks"


class TaskLog:
    """The file `.unshard.tasks` in the destination: a line of JSON per finished task.

    A line is added only when all that the task wrote is synced, so a line that is there can
    be believed after a power cut. A line that was cut short or never reached the disk is none.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME

    def read(self) -> dict[int, TaskResult]:
        """The finished tasks, by number."""
        try:
            lines = self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return {}
        results = (_result(line) for line in lines)
        return {result.task.number: result for result in results if result is not None}

    def append(self, results: Iterable[TaskResult]) -> None:
        """Adds finished tasks, durably.

        Raises:
            NoSpaceError, DestinationError: the system refuses.
        """
        append_lines(self._path, (json.dumps(_json(result)) for result in results))

    def remove(self) -> None:
        """Forgets everything."""
        self._path.unlink(missing_ok=True)


class NoTaskLog(TaskLog):
    """Believes and keeps nothing, for runs that cannot be resumed."""

    def read(self) -> dict[int, TaskResult]:
        """No task is ever done."""
        return {}

    def append(self, results: Iterable[TaskResult]) -> None:
        """Forgets them."""

    def remove(self) -> None:
        """There is nothing; another run's log may be there."""


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Adds `lines` to the file at `path`, durably.

    Raises:
        NoSpaceError, DestinationError: the system refuses.
    """
    raw = b"".join(line.encode() + b"\n" for line in lines)
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        file = os.open(path, flags, 0o666)
        try:
            size = os.fstat(file).st_size
            # The line before may have been cut short: a new one begins here.
            write_all(file, path, b"\n" + raw if size else raw, size)
            os.fsync(file)
        finally:
            os.close(file)
        if not size:
            sync_directory(path.parent)
    except OSError as error:
        raise write_error(path, error) from error


def _json(result: TaskResult) -> list[Any]:
    writes = [[*record, list(ranges)] for record, ranges in result.writes.items()]
    task = result.task
    rows = [task.number, task.source, task.start, task.stop, sorted(task.files)]
    return [rows, result.reads, writes, result.slices]


def _result(line: bytes) -> TaskResult | None:
    try:
        rows, reads, writes, slices = json.loads(line)
    except ValueError:
        return None
    number, source, start, stop, files = rows
    return TaskResult(
        CopyTask(number, source, start, stop, frozenset(files)),
        reads={path: [(a, b, c) for a, b, c in ranges] for path, ranges in reads.items()},
        writes={
            (file, record): [(a, b, c) for a, b, c in ranges] for file, record, ranges in writes
        },
        slices={int(number): digest for number, digest in slices.items()},
    )
