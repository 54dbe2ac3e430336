"""Threads of this process that run tasks."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from queue import SimpleQueue

from unshard.execute.blocks import Buffers
from unshard.execute.copy import Copier, Executor, TaskResult
from unshard.execute.tasks import CopyTask
from unshard.interrupts import interrupts_told


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

        outcomes: SimpleQueue[Future[TaskResult] | KeyboardInterrupt] = SimpleQueue()
        todo, num_running = iter(tasks), 0
        pool = ThreadPoolExecutor(workers)
        try:
            with interrupts_told(outcomes.put):
                while True:
                    for task in islice(todo, 2 * workers - num_running):
                        pool.submit(copy, task).add_done_callback(outcomes.put)
                        num_running += 1
                    if not num_running:
                        return
                    outcome = outcomes.get()
                    if isinstance(outcome, KeyboardInterrupt):
                        raise outcome
                    num_running -= 1
                    yield outcome.result()
        finally:
            pool.shutdown(cancel_futures=True)

    return run
