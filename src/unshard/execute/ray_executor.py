"""Running the tasks of a reshard on the machines of an existing Ray cluster.

The driver plans, starts files, logs and finishes them, as ever; workers copy. A task that runs
twice writes the same bytes to the same place, so what a lost worker was doing is done again.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from unshard.disk import sync_file
from unshard.errors import UsageError, WorkerLostError
from unshard.execute.copy import Copier, TaskResult
from unshard.execute.node_check import (
    Expected,
    expected_of,
    problem_here,
    source_paths,
    working_folder,
)
from unshard.execute.run import Executor
from unshard.execute.tasks import CopyTask
from unshard.plan.copy_plan import CopyPlan
from unshard.progress import Silent

BATCH_BYTES = 128 << 20
"""About how much a worker reads before it syncs and reports: what a lost worker can cost."""
BATCHES_PER_WORKER = 4
"""At least, so that all end at about the same time."""
MAX_RETRIES = 3
"""How often a batch is done again whose worker is lost."""
CONNECT_TIMEOUT_S = 15
"""Ray itself tries for two minutes, and then ends the process."""
CHECK_TIMEOUT_S = 60
"""For every node to start a worker and look at the files."""
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
        with _connected(address), _ray_errors():
            _check_nodes(expected_of(copier, tasks))
            yield from _run_batches(copier, tasks, workers)

    return run


@contextmanager
def _connected(address: str) -> Iterator[None]:
    if ray.is_initialized():
        yield
        return
    _refuse_unreachable(address)
    ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


def _refuse_unreachable(address: str) -> None:
    """Connects in a process that can be ended, because Ray's own attempt cannot."""
    code = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False)"
    try:
        done = subprocess.run(  # noqa: S603  (this Python, this code)
            [sys.executable, "-c", code, address],
            timeout=CONNECT_TIMEOUT_S,
            capture_output=True,
            text=True,
            check=False,
        )
        reason = "" if done.returncode == 0 else (done.stderr.splitlines() or ["?"])[-1]
    except subprocess.TimeoutExpired:
        reason = f"no answer in {CONNECT_TIMEOUT_S} s"
    if reason:
        raise UsageError(
            f"no Ray cluster to be reached at {address}: {reason}",
            hint="`ray start` makes this machine a node of one: see docs/scale-out.md",
        )


@contextmanager
def _ray_errors() -> Iterator[None]:
    """Errors of Ray as our own; what a task raised comes through as it was."""
    try:
        yield
    except RayTaskError as error:
        raise error.cause from error
    except RayError as error:
        raise WorkerLostError(
            f"the Ray cluster lost a worker too often, or itself: {str(error).splitlines()[0]}",
            hint="Ray's logs say why; run the same command again: it goes on from here",
        ) from error


def _check_nodes(expected: Expected) -> None:
    """
    Raises:
        UsageError: a node that tasks may run on cannot run them.
    """
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    if not nodes:
        raise UsageError("no node of the Ray cluster has a CPU for tasks")
    check = ray.remote(num_cpus=0, max_retries=0)(problem_here)
    found = [
        check.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(expected)
        for node in nodes
    ]
    for node, ref in zip(nodes, found, strict=True):
        try:
            problem = ray.get(ref, timeout=CHECK_TIMEOUT_S)
        except GetTimeoutError:
            problem = f"did not answer in {CHECK_TIMEOUT_S} s"
        except RayTaskError as error:
            problem = f"cannot run unshard {expected.version}: {str(error).splitlines()[-1]}"
        if problem:
            raise UsageError(
                f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}) {problem}",
                hint="every node needs this unshard, and the folders of the sources and the output",
            )


def _run_batches(copier: Copier, tasks: Batch, workers: int) -> Generator[TaskResult]:
    by_number = {task.number: task for task in tasks}
    todo = _batches(copier.plan, tasks, workers)
    job = ray.put(_job(copier, tasks))
    run = ray.remote(max_retries=MAX_RETRIES, scheduling_strategy="SPREAD")(_run_batch)
    running = [run.remote([job], batch) for batch in islice(todo, workers)]
    try:
        while running:
            [done], running = ray.wait(running, num_returns=1)
            results = ray.get(done)
            running += [run.remote([job], batch) for batch in islice(todo, 1)]
            for result in results:
                copier.progress.advance(by_number[result.number].num_bytes(copier.plan))
                yield result
    finally:
        _stop(running)


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


def _stop(running: list[ray.ObjectRef]) -> None:
    """Returns when nothing writes any more: another run may begin then."""
    for ref in running:
        ray.cancel(ref)
    if running:
        _, stuck = ray.wait(running, num_returns=len(running), timeout=STOP_TIMEOUT_S)
        for ref in stuck:
            ray.cancel(ref, force=True)


# What runs on the workers.


@dataclass(frozen=True)
class _Job:
    """All that batches share, and the folder that its paths start from."""

    copier: Copier
    folder: str


def _job(copier: Copier, tasks: Batch) -> _Job:
    sources = {path for task in tasks for path in source_paths(copier.plan, task)}
    return _Job(replace(copier, progress=Silent()), working_folder([*sources, *copier.paths]))


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
        results = [found.copier.run(task) for task in batch]
        if found.copier.write_behind:
            files = frozenset[int]().union(*(task.files for task in batch))
            for number in files - found.copier.closed:
                sync_file(found.copier.paths[number])
    return results
