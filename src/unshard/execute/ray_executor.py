"""Running the tasks of a reshard on the machines of an existing Ray cluster.

The driver plans, starts files, logs and finishes them, as ever; workers copy. A task that runs
twice writes the same bytes to the same place, so what a lost worker was doing is done again.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from typing import Self

import ray
from ray.exceptions import RayError, RayTaskError

from unshard.disk import sync_file
from unshard.errors import WorkerLostError
from unshard.execute.blocks import Buffers
from unshard.execute.copy import Copier, Executor, TaskResult
from unshard.execute.node_check import expected_of
from unshard.execute.ray_cluster import check_nodes, connected
from unshard.execute.tasks import CopyTask
from unshard.plan.copy_plan import CopyPlan
from unshard.progress import Progress, Silent

BATCH_BYTES = 128 << 20
"""About how much a worker reads before it syncs and reports: what a lost worker can cost."""
BATCHES_PER_WORKER = 4
"""At least, so that all end at about the same time."""
MAX_RETRIES = 3
"""How often a batch is done again whose worker is lost."""
STOP_TIMEOUT_S = 30
"""How long interrupted workers have before they are killed."""

Batch = Sequence[CopyTask]


def on_ray(workers: int, address: str = "auto") -> Executor:
    """An executor of `workers` batches at a time, one CPU each, on the cluster at `address`
    (HOST:PORT), or on the one that this machine is a node of.

    A connection that the process has already is used and kept. Running it raises:
        UsageError: no cluster is there, or a node lacks this unshard or does not see the files.
        WorkerLostError: workers died too often, or the cluster did.
        UnshardError, OSError: what a task raised, wherever it ran.
    """

    def run(copier: Copier, tasks: Batch) -> Generator[TaskResult]:
        if not tasks:
            return
        with connected(address), _ray_errors():
            expected = expected_of(copier, tasks)
            check_nodes(expected)
            job = _Job(replace(copier, progress=Silent()), expected.folder)
            with _Running(job, copier.progress) as running:
                yield from _run_batches(running, copier, tasks, workers)

    return run


@contextmanager
def _ray_errors() -> Iterator[None]:
    """Errors of Ray as our own; what a task raised comes through as it was."""
    try:
        yield
    except RayTaskError as error:
        raise error.cause from error
    except RayError as error:
        raise WorkerLostError(
            f"the Ray cluster lost a worker too often, or itself: {_first_sentence(error)}",
            hint="Ray's logs say why; run the same command again: it goes on from here",
        ) from error


def _run_batches(
    running: _Running, copier: Copier, tasks: Batch, workers: int
) -> Generator[TaskResult]:
    todo = _batches(copier.plan, tasks, workers)
    for batch in islice(todo, workers):
        running.start(batch)
    while running:
        results = running.next_results()
        for batch in islice(todo, 1):
            running.start(batch)
        for result in results:
            copier.progress.advance(result.task.num_bytes(copier.plan))
            yield result


class _Running:
    """Batches that are on the cluster. Left early, it stops them and waits until they have:
    another run may begin then."""

    def __init__(self, job: _Job, progress: Progress) -> None:
        self._progress = progress
        self._job = ray.put(job)
        # Ray's own retries would be without end where it is memory that workers lack.
        self._run = ray.remote(max_retries=0, scheduling_strategy="SPREAD")(_run_batch)
        self._batches: dict[ray.ObjectRef, tuple[Batch, int]] = {}

    def __bool__(self) -> bool:
        return bool(self._batches)

    def start(self, batch: Batch, retries: int = 0) -> None:
        self._batches[self._run.remote([self._job], batch)] = batch, retries

    def next_results(self) -> list[TaskResult]:
        """The results of the next batch that ends, at last; a lost one is started again."""
        while True:
            [done], _ = ray.wait(list(self._batches), num_returns=1)
            batch, retries = self._batches.pop(done)
            try:
                results: list[TaskResult] = ray.get(done)
            except RayTaskError:
                raise
            except RayError as error:
                if retries == MAX_RETRIES:
                    raise
                self._progress.note(f"doing again what a lost worker did: {_first_sentence(error)}")
                self.start(batch, retries + 1)
            else:
                return results

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        running = list(self._batches)
        for ref in running:
            ray.cancel(ref)
        if running:
            _, stuck = ray.wait(running, num_returns=len(running), timeout=STOP_TIMEOUT_S)
            for ref in stuck:
                ray.cancel(ref, force=True)


def _first_sentence(error: RayError) -> str:
    return str(error).splitlines()[0].split(". ")[0]


def _batches(plan: CopyPlan, tasks: Batch, workers: int) -> Iterator[Batch]:
    """Neighbouring tasks: they write to the same files."""
    total = sum(task.num_bytes(plan) for task in tasks)
    enough = min(BATCH_BYTES, total // (BATCHES_PER_WORKER * workers))
    batch: list[CopyTask] = []
    num_bytes = 0
    for task in tasks:
        batch.append(task)
        num_bytes += task.num_bytes(plan)
        if num_bytes >= enough:
            yield batch
            batch, num_bytes = [], 0
    if batch:
        yield batch


# What runs on the workers.


@dataclass(frozen=True)
class _Job:
    """All that batches share, and the folder that its paths start from."""

    copier: Copier
    folder: str


@lru_cache(maxsize=1)
def _loaded(job: ray.ObjectRef) -> _Job:
    """The job, fetched and unpacked once per process."""
    found: _Job = ray.get(job)
    return found


def _run_batch(job: Sequence[ray.ObjectRef], batch: Batch) -> list[TaskResult]:
    """Copies and, where the driver will believe it later, syncs: a sync on the driver's machine
    does not reach what this one still holds back. `job` comes wrapped, or Ray would unpack it for
    every batch."""
    found = _loaded(job[0])
    with chdir(found.folder):
        buffers = Buffers()
        results = [found.copier.run(task, buffers) for task in batch]
        if found.copier.write_behind:
            files = frozenset[int]().union(*(task.files for task in batch))
            for number in files - found.copier.closed:
                sync_file(found.copier.paths[number])
    return results
