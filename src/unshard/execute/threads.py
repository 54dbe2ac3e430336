"""Threads of this process that run tasks."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from queue import SimpleQueue

from unshard.execute.blocks import Buffers
from unshard.execute.copy import Copier, Executor, TaskResult
from unshard.execute.tasks import CopyTask


def threads(workers: int) -> Executor:
    """An executor of `workers` threads in this process."""

    def run(copier: Copier, tasks: Sequence[CopyTask]) -> Generator[TaskResult]:
        idle: SimpleQueue[Buffers] = SimpleQueue()
        for _ in range(workers):
            idle.put(Buffers())

        def copy(task: CopyTask) -> TaskResult:
            buffers = idle.get()
            try:
                return copier.run(task, buffers)
            finally:
                idle.put(buffers)

        todo = iter(tasks)
        pool = ThreadPoolExecutor(workers)
        try:
            running: set[Future[TaskResult]] = set()
            while True:
                free = 2 * workers - len(running)
                running |= {pool.submit(copy, task) for task in islice(todo, free)}
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in sorted(done, key=lambda each: each.exception() is not None):
                    yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)

    return run
