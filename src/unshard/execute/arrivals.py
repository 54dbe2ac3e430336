"""Running tasks as the files that they read arrive."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import closing
from typing import Protocol

from unshard.execute.copy import Copier, Executor, TaskResult
from unshard.execute.tasks import CopyTask
from unshard.index.slices import slice_ranges
from unshard.plan.copy_plan import CopyPlan
from unshard.tensors import TensorRef


class Arrivals:
    """The source files of a plan that are whole so far. Safe to use from many threads."""

    def __init__(self) -> None:
        self.needed: Future[frozenset[str]] = Future()
        """Paths of the files that tasks wait for, known once the run has begun."""
        self._new: list[str] = []
        self._stopped = False
        self._changed = threading.Condition()

    def arrive(self, path: str) -> None:
        """The file at `path`, spelled as in the plan, is whole."""
        with self._changed:
            self._new.append(path)
            self._changed.notify()

    def stop(self) -> None:
        """Nothing more arrives, and nobody wants the rest: `take` and `raise_if_stopped` raise."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def raise_if_stopped(self) -> None:
        """
        Raises:
            CancelledError: `stop` was called.
        """
        if self._stopped:
            raise CancelledError

    def take(self) -> list[str]:
        """The files that arrived since the last call; waits until there is one.

        Raises:
            CancelledError: `stop` was called.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._new or self._stopped)
            self.raise_if_stopped()
            new, self._new = self._new, []
            return new


class Records(Protocol):
    """Remembers across runs which files have arrived (`execute/journal.py`)."""

    def arrived_before(self, paths: Iterable[str]) -> set[str]:
        """Those of `paths` that an earlier run has seen whole; parts of them may be deleted
        since."""

    def arrived(self, paths: Sequence[str]) -> None:
        """The files at `paths` are whole, and nothing of them is read yet."""


def arriving(arrivals: Arrivals, executor: Executor, records: Records) -> Executor:
    """An executor that gives `executor` each task once all that it reads is there."""

    def run(copier: Copier, tasks: Sequence[CopyTask]) -> Generator[TaskResult]:
        known = set(copier.plan.source_paths())
        known -= records.arrived_before(known)
        missing = {task.number: known.intersection(paths_of(task, copier.plan)) for task in tasks}
        arrivals.needed.set_result(frozenset().union(*missing.values()))
        waiting = list(tasks)
        while waiting:
            ready = [task for task in waiting if not missing[task.number]]
            waiting = [task for task in waiting if missing[task.number]]
            if ready:
                with closing(executor(copier, ready)) as running:
                    for result in running:
                        yield result
                        arrivals.raise_if_stopped()
            if waiting:
                new = known.intersection(arrivals.take())
                records.arrived(sorted(new))
                for task in waiting:
                    missing[task.number] -= new

    return run


def paths_of(task: CopyTask, plan: CopyPlan) -> Iterator[str]:
    """The files that `task` reads, some of them several times."""
    tensor = plan.sources[task.source]
    for chunk in tensor.chunks:
        first = chunk.offsets[0] if chunk.offsets else 0
        yield from _paths(chunk.ref, task.start - first, task.stop - first)
        # Read at the rows of the chunk they are compared with.
        for replica in tensor.replicas:
            yield from _paths(replica, task.start - first, task.stop - first)


def _paths(ref: TensorRef, start: int, stop: int) -> Iterable[str]:
    row_bytes = ref.num_bytes // max(ref.num_rows, 1)
    start, stop = max(start, 0), min(stop, ref.num_rows)
    ranges = slice_ranges(ref.ranges, start * row_bytes, (stop - start) * row_bytes)
    return (piece.path for piece in ranges)
