"""What of an unfinished reshard has arrived, and what is safely on the disk, task by task."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from unshard.disk import sync_directory
from unshard.execute.checksums import Summed
from unshard.execute.copy import TaskResult
from unshard.execute.output_file import opened, write_all
from unshard.execute.source_states import are_states
from unshard.execute.tasks import CopyTask

States = Mapping[str, list[int]]
"""Size and modification time (ns) of source files by absolute path."""


class _Lines:
    """A file of JSON lines in the destination, to which lines are only added.

    So a kill costs one of them at most, and a line costs the same however many there are. One
    that was cut short, never reached the disk or says what it cannot say is none.
    """

    name: ClassVar[str]

    def __init__(self, directory: Path) -> None:
        self._path = directory / self.name

    def _values(self) -> Iterator[Any]:
        try:
            lines = self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return
        for line in lines:
            with suppress(ValueError, RecursionError):
                yield json.loads(line)

    def _add(self, values: Iterable[Any]) -> None:
        """Durably.

        Raises:
            NoSpaceError, DestinationError: the system refuses.
        """
        raw = b"".join(json.dumps(value).encode() + b"\n" for value in values)
        with opened(self._path, os.O_CREAT) as file:
            size = os.fstat(file).st_size
            # The line before may have been cut short: a new one begins here.
            write_all(file, self._path, b"\n" + raw if size else raw, size)
            os.fsync(file)
            if not size:
                sync_directory(self._path.parent)

    def remove(self) -> None:
        """Forgets everything."""
        self._path.unlink(missing_ok=True)


class ArrivalLog(_Lines):
    """The source files that have arrived, and how they were then."""

    name = ".unshard.arrived"

    def read(self) -> States:
        found: dict[str, list[int]] = {}
        for value in self._values():
            with suppress(ValueError, TypeError):
                path, *state = value
                found |= {path: state} if are_states({path: state}) else {}
        return found

    def append(self, states: States) -> None:
        self._add([path, *state] for path, state in states.items())


class TaskLog(_Lines):
    """The finished tasks. One is added only when all that it wrote is synced, so that it can be
    believed after a power cut."""

    name = ".unshard.tasks"

    def read(self) -> dict[int, TaskResult]:
        """By number."""
        found: dict[int, TaskResult] = {}
        for value in self._values():
            with suppress(ValueError, TypeError, AttributeError):
                result = _result(value)
                found[result.task.number] = result
        return found

    def append(self, results: Iterable[TaskResult]) -> None:
        self._add(map(_json, results))


class NoTaskLog(TaskLog):
    """Believes and keeps nothing, for runs that cannot be resumed."""

    def read(self) -> dict[int, TaskResult]:
        """No task is ever done."""
        return {}

    def append(self, results: Iterable[TaskResult]) -> None:
        """Forgets them."""

    def remove(self) -> None:
        """There is nothing; another run's log may be there."""


def _json(result: TaskResult) -> list[Any]:
    writes = [[*record, list(ranges)] for record, ranges in result.writes.items()]
    task = result.task
    rows = [task.number, task.source, task.start, task.stop, sorted(task.files)]
    return [rows, result.reads, writes, result.slices]


def _result(value: Any) -> TaskResult:
    rows, reads, writes, slices = value
    number, source, start, stop, files = rows
    return TaskResult(
        CopyTask(number, source, start, stop, frozenset(files)),
        reads={path: _ranges(ranges) for path, ranges in reads.items()},
        writes={(file, record): _ranges(ranges) for file, record, ranges in writes},
        slices={int(number): _text(digest) for number, digest in slices.items()},
    )


def _ranges(value: Any) -> list[Summed]:
    ranges = [(a, b, c) for a, b, c in value]
    if not all(type(number) is int for each in ranges for number in each):
        raise TypeError
    return ranges


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value
