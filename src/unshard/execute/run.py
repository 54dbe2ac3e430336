"""Carrying out a `CopyPlan` into files: in parallel, in bounded memory, resumable, proved."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from unshard.disk import sync_directory
from unshard.errors import DestinationError, NoSpaceError, UsageError
from unshard.execute.arrivals import Arrivals, arriving
from unshard.execute.copy import Copier, Executor, TaskResult
from unshard.execute.element_values import refuse_cast
from unshard.execute.finishing import Finishing
from unshard.execute.journal import Journal
from unshard.execute.output_file import create, partial_path, write_error
from unshard.execute.reclaim import Reclaiming, refuse_losses
from unshard.execute.task_log import TaskLog
from unshard.execute.tasks import CopyTask, Placement, placements_of, tasks_of
from unshard.execute.threads import threads
from unshard.execute.unclaimed import Unclaimed
from unshard.execute.workers import DEFAULT_MEMORY_BYTES, DEFAULT_WORKERS, block_bytes
from unshard.plan.copy_plan import CopyPlan, PlannedFile
from unshard.progress import Progress, Silent


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
    before_reclaim: Callable[[], None] = lambda: None,
    arrivals: Arrivals | None = None,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Writes every file of `plan` into `directory`; returns their paths.

    Each file appears under its name only when it is whole and, with `sync`, on the disk.
    Stopped at any moment, the same call goes on where it was. With `verify`, what is written is
    compared with what is read, and that with the checksums in the source files; the output's
    fingerprint is recorded in `unshard.json`. Source files in `reclaim` are deleted on the way,
    each once all of it is written, synced and proved, and `before_reclaim` is called before the
    first. Without `claim` the folder may hold other
    files too, those of the plan are replaced, and nothing is recorded or resumed. With `arrivals`
    the source files need not be there yet: each is read once it has arrived.

    `workers` threads of this process copy, or else an `executor`, of which each process has
    `workers` threads; they share `memory_bytes`.

    Raises:
        DestinationError, NoSpaceError: the output cannot be written.
        FormatError, CheckpointError: an input is not what its headers said.
        UsageError: too little memory, or a cast that there is not.
        CancelledError: `arrivals` were stopped.
    """
    directory = Path(directory)
    size = block_bytes(memory_bytes, workers)
    doomed = tuple(map(str, reclaim))
    reclaiming = Reclaiming(plan, doomed, announce=before_reclaim) if doomed else None
    _refuse_impossible(plan, reclaiming, proved=sync and verify and claim)
    _make_folder(plan, directory)
    options = {"sync": sync, "verify": verify, "reclaim": bool(doomed), "arriving": bool(arrivals)}
    claimed = Journal(plan, directory, **options) if claim else Unclaimed(plan, directory)
    with claimed as journal:
        begun = _begin(plan, directory, journal, overwrite=overwrite, reserve=not doomed)
        log = journal.log if sync else None
        paths = [str(partial_path(directory, file.name)) for file in plan.files]
        copier = Copier(
            plan, begun.placements, paths, progress or Silent(), begun.closed, size, verify, sync
        )
        finishing = Finishing(copier, directory, begun.tasks, log, reclaiming)
        executor = executor or threads(workers)
        if arrivals is not None:
            executor = arriving(arrivals, executor, journal)
        _copy(copier, begun, finishing, executor)
        _finish(directory, journal, finishing, sync=sync)
    return [directory / file.name for file in plan.files]


def _refuse_impossible(plan: CopyPlan, reclaiming: Reclaiming | None, *, proved: bool) -> None:
    plan.check()
    for target in plan.targets():
        for region in target.regions:
            refuse_cast(target.name, plan.sources[region.source].dtype, target.dtype)
    if reclaiming is None:
        return
    if not proved:
        raise UsageError(
            "--reclaim deletes source files only after a synced, verified copy",
            hint="leave out --no-sync and --no-verify, or --reclaim",
        )
    refuse_losses(reclaiming)


@dataclass(frozen=True)
class _Begun:
    """A run's tasks, and what earlier runs have done of them."""

    placements: dict[str, list[Placement]]
    tasks: list[CopyTask]
    results: dict[int, TaskResult]
    closed: frozenset[int]
    """Numbers of the output files that are whole already."""

    def is_done(self, task: CopyTask) -> bool:
        return task.number in self.results or task.files <= self.closed


def _begin(
    plan: CopyPlan,
    directory: Path,
    journal: Journal | Unclaimed,
    *,
    overwrite: bool,
    reserve: bool,
) -> _Begun:
    """Claims the folder and makes the files that nothing is left of."""
    todo = journal.begin(overwrite=overwrite)
    placements = placements_of(plan)
    tasks = tasks_of(plan, placements)
    results, lost = _resumed(plan, directory, todo, tasks, journal.log)
    if lost and not reserve:
        journal.refuse_reclaimed()
    _create([plan.files[number] for number in sorted(lost)], directory, reserve=reserve)
    closed = frozenset(number for number, file in enumerate(plan.files) if file not in todo)
    return _Begun(placements, tasks, results, closed)


def _copy(copier: Copier, begun: _Begun, finishing: Finishing, executor: Executor) -> None:
    """Runs the tasks that are left, and finishes files behind them."""
    todo = [task for task in begun.tasks if not begun.is_done(task)]
    total = sum(task.num_bytes(copier.plan) for task in begun.tasks)
    copier.progress.start("reshard", total, finishing.count.look)
    copier.progress.advance(total - sum(task.num_bytes(copier.plan) for task in todo))
    with finishing:
        for result in begun.results.values():
            finishing.add(result, logged=True)
        with closing(executor(copier, todo)) as running:
            for result in running:
                finishing.add(result)


def _finish(
    directory: Path, journal: Journal | Unclaimed, finishing: Finishing, *, sync: bool
) -> None:
    """Records that the output is whole, and forgets how it came about."""
    journal.finish(finishing.fingerprint())
    if sync:
        sync_directory(directory)
    journal.log.remove()
    finishing.end()


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
) -> tuple[dict[int, TaskResult], set[int]]:
    """The tasks whose output is still there, and the files that nothing is left of."""
    results = log.read()
    numbers = {file.name: number for number, file in enumerate(plan.files)}
    lost = set()
    for file in todo:
        partial = partial_path(directory, file.name)
        if not partial.is_file() or partial.stat().st_size != file.num_bytes or not results:
            lost.add(numbers[file.name])
    logged = ((task, results.get(task.number)) for task in tasks if not task.files & lost)
    # Another version may have cut the same plan into other tasks.
    kept = {task.number: found for task, found in logged if found and found.task == task}
    return kept, lost


def _create(files: Sequence[PlannedFile], directory: Path, *, reserve: bool) -> None:
    if reserve:
        _refuse_full_disk(files, directory)
    for file in files:
        create(file, directory, reserve=reserve)


def _refuse_full_disk(todo: Sequence[PlannedFile], directory: Path) -> None:
    space = os.statvfs(directory)
    free, needed = space.f_bavail * space.f_frsize, sum(file.num_bytes for file in todo)
    if needed > free:
        raise NoSpaceError(
            f"{directory}: {needed} bytes are to be written, {free} are free",
            hint="free some space or choose another disk",
        )
