"""Carrying out a `CopyPlan` into files: in parallel, in bounded memory, resumable, proved."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from itertools import islice
from pathlib import Path

from unshard.disk import sync_directory
from unshard.errors import DestinationError, NoSpaceError, UsageError
from unshard.execute.casts import refuse_cast
from unshard.execute.copy import Copier, TaskResult
from unshard.execute.finishing import Finishing
from unshard.execute.journal import Journal, Unclaimed
from unshard.execute.output_file import create, partial_path, write_error
from unshard.execute.reclaim import Reclaiming, refuse_losses
from unshard.execute.task_log import NoTaskLog, TaskLog
from unshard.execute.tasks import CopyTask, placements_of, tasks_of
from unshard.execute.workers import DEFAULT_MEMORY_BYTES, DEFAULT_WORKERS, block_bytes
from unshard.plan.copy_plan import CopyPlan, PlannedFile
from unshard.progress import Progress, Silent

Executor = Callable[[Copier, Sequence[CopyTask]], Generator[TaskResult]]
"""Runs tasks somewhere and yields what each did, in any order. Closed early, it returns when
nothing of it runs any more."""


def threads(workers: int) -> Executor:
    """An executor of `workers` threads in this process."""

    def run(copier: Copier, tasks: Sequence[CopyTask]) -> Generator[TaskResult]:
        todo = iter(tasks)
        with ThreadPoolExecutor(workers) as pool:
            running: set[Future[TaskResult]] = set()
            while True:
                free = 2 * workers - len(running)
                running |= {pool.submit(copier.run, task) for task in islice(todo, free)}
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in sorted(done, key=lambda each: each.exception() is not None):
                    yield future.result()

    return run


def run_plan(
    plan: CopyPlan,
    directory: str | Path,
    *,
    workers: int = DEFAULT_WORKERS,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    overwrite: bool = False,
    verify: bool = True,
    sync: bool = True,
    claim: bool = True,
    reclaim: Sequence[str | Path] = (),
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Writes every file of `plan` into `directory`; returns their paths.

    Each file appears under its name only when it is whole and, with `sync`, on the disk.
    Stopped at any moment, the same call goes on where it was. With `verify`, what is written is
    compared with what is read, and that with the checksums in the source files; the output's
    fingerprint is recorded in `unshard.json`. Source files in `reclaim` are deleted on the way,
    each once all of it is written, synced and proved. Without `claim` the folder may hold other
    files too, those of the plan are replaced, and nothing is recorded or resumed.

    `workers` threads of this process copy, or else an `executor`, of which each process has
    `workers` threads; they share `memory_bytes`.

    Raises:
        DestinationError, NoSpaceError: the output cannot be written.
        FormatError, CheckpointError: an input is not what its headers said.
        UsageError: too little memory, or a cast that there is not.
    """
    plan.check()
    for target in plan.targets():
        for region in target.regions:
            refuse_cast(target.name, plan.sources[region.source].dtype, target.dtype)
    directory = Path(directory)
    size = block_bytes(memory_bytes, workers)
    reclaiming = Reclaiming(plan, tuple(map(str, reclaim))) if reclaim else None
    if reclaiming:
        if not (sync and verify and claim):
            raise UsageError(
                "--reclaim deletes source files only after a synced, verified copy",
                hint="leave out --no-sync and --no-verify, or --reclaim",
            )
        refuse_losses(reclaiming)
    _make_folder(plan, directory)
    claimed = (
        Journal(plan, directory, sync=sync, reclaim=bool(reclaim))
        if claim
        else Unclaimed(plan, directory)
    )
    with claimed as journal:
        todo = journal.begin(overwrite=overwrite)
        log = TaskLog(directory) if claim else NoTaskLog(directory)
        placements = placements_of(plan)
        tasks = tasks_of(plan, placements)
        results = _resumed(plan, directory, todo, tasks, log, reserve=not reclaim)
        closed = frozenset(n for n, file in enumerate(plan.files) if file not in todo)
        copier = Copier(
            plan,
            placements,
            [str(partial_path(directory, file.name)) for file in plan.files],
            _started(plan, tasks, results, closed, progress or Silent()),
            closed,
            size,
            verify=verify,
            write_behind=sync,
        )
        open_tasks = [
            task for task in tasks if task.number not in results and not task.files <= closed
        ]
        finishing = Finishing(plan, directory, tasks, closed, log if sync else None, reclaiming)
        with finishing:
            for result in results.values():
                finishing.add(result, logged=True)
            with closing((executor or threads(workers))(copier, open_tasks)) as running:
                for result in running:
                    finishing.add(result)
        journal.check_sources()
        journal.finish(finishing.fingerprint())
        finishing.end()
        if sync:
            sync_directory(directory)
    return [directory / file.name for file in plan.files]


def _make_folder(plan: CopyPlan, directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(directory, error) from error
    sources = {Path(path).resolve() for path in plan.source_paths()}
    for file in plan.files:
        if (directory / file.name).resolve() in sources:
            raise DestinationError(
                f"{directory / file.name} is one of the files to read",
                hint="choose another output folder",
            )


def _resumed(
    plan: CopyPlan,
    directory: Path,
    todo: Sequence[PlannedFile],
    tasks: Sequence[CopyTask],
    log: TaskLog,
    reserve: bool,
) -> dict[int, TaskResult]:
    """Tasks whose output is still there; files that nothing is left of are made anew."""
    results = log.read()
    numbers = {file.name: number for number, file in enumerate(plan.files)}
    lost = set()
    for file in todo:
        partial = partial_path(directory, file.name)
        if not partial.is_file() or partial.stat().st_size != file.num_bytes or not results:
            lost.add(numbers[file.name])
    if reserve:
        _refuse_full_disk([file for file in todo if numbers[file.name] in lost], directory)
    for file in todo:
        if numbers[file.name] in lost:
            create(file, directory, reserve=reserve)
    return {
        task.number: results[task.number]
        for task in tasks
        if task.number in results and not task.files & lost
    }


def _refuse_full_disk(todo: Sequence[PlannedFile], directory: Path) -> None:
    space = os.statvfs(directory)
    free, needed = space.f_bavail * space.f_frsize, sum(file.num_bytes for file in todo)
    if needed > free:
        raise NoSpaceError(
            f"{directory}: {needed} bytes are to be written, {free} are free",
            hint="free some space or choose another disk",
        )


def _started(
    plan: CopyPlan,
    tasks: Sequence[CopyTask],
    results: dict[int, TaskResult],
    closed: frozenset[int],
    progress: Progress,
) -> Progress:
    """The progress, told of the whole work and of what of it is done already."""
    progress.start("reshard", sum(task.num_bytes(plan) for task in tasks))
    done = (task for task in tasks if task.number in results or task.files <= closed)
    progress.advance(sum(task.num_bytes(plan) for task in done))
    return progress
