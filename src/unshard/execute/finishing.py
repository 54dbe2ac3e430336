"""What follows a task: its log, its proof, and output files that become whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Self

from unshard.disk import sync_file
from unshard.execute.checksums import RangeChecksums, crc32
from unshard.execute.copy import Copier, TaskResult
from unshard.execute.fingerprint import Fingerprint, combine, tensor_digest
from unshard.execute.output_file import commit, partial_path
from unshard.execute.reclaim import Reclaimer, Reclaiming
from unshard.execute.source_check import SourceCheck
from unshard.execute.task_log import TaskLog
from unshard.execute.tasks import CopyTask
from unshard.plan.copy_plan import PlannedFile
from unshard.progress import FileCount
from unshard.tensors import StoredRecord

BATCH_BYTES = 1 << 30
"""How much is written between two syncs: what a power cut can cost."""
RECLAIM_BATCH_BYTES = 1 << 28
"""The same where source files are deleted: how much lies on the disk twice, a few times over."""
RECLAIM_BATCHES_BEHIND = 2
"""So many may wait to be synced and deleted: copying is faster, and would fill the disk."""


class Finishing:
    """Takes in the results of tasks, in any order, and finishes files behind them.

    Syncing and logging happen on a thread of their own, so that copying goes on.
    """

    def __init__(
        self,
        copier: Copier,
        directory: Path,
        tasks: Sequence[CopyTask],
        log: TaskLog | None,
        reclaiming: Reclaiming | None,
    ) -> None:
        plan = self._plan = copier.plan
        self._directory, self._log = directory, log
        self._check = SourceCheck(plan)
        self._reclaimer = Reclaimer(reclaiming, directory, tasks) if reclaiming else None
        self._batch_bytes = RECLAIM_BATCH_BYTES if reclaiming else BATCH_BYTES
        self._done: list[int] = []
        self._proved: list[StoredRecord] = []
        self._slices: dict[str, dict[int, str]] = {
            name: {} for name in plan.sources if name in plan.weights
        }
        self._sums: dict[tuple[int, int], RangeChecksums] = {}
        self._missing = [0] * len(plan.files)
        for task in tasks:
            for file in task.files - copier.closed:
                self._missing[file] += 1
        self._closed = copier.closed
        self.count = FileCount(copier.progress, len(plan.files), len(copier.closed))
        self._unlogged: list[TaskResult] = []
        self._unlogged_bytes = 0
        self._thread = ThreadPoolExecutor(1)
        self._failed = False
        self._pending: list[Future[None]] = []

    def __enter__(self) -> Self:
        if self._reclaimer:
            self._reclaimer.begin()
        for number, missing in enumerate(self._missing):
            if not missing and number not in self._closed:
                self._finish_file(number)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_exception: object) -> None:
        """Waits for what was begun; on the way out of an error, keeps what is done so far."""
        if kind is not None or self._reclaimer:
            self._write_log()
        self._thread.shutdown(wait=True)
        if kind is None:
            self._raise_failures()

    def add(self, result: TaskResult, *, logged: bool = False) -> None:
        """Takes in one task.

        Raises:
            FormatError: a source record that is now read in full is damaged.
            NoSpaceError, DestinationError: a file could not be finished.
        """
        self._raise_failures()
        task = result.task
        proved = self._check.add(result.reads, judged=logged)
        if task.source in self._slices:
            self._slices[task.source] |= result.slices
        for record, ranges in result.writes.items():
            for summed in ranges:
                self._sums.setdefault(record, RangeChecksums()).add(*summed)
        if not logged:  # before what follows: an interrupt here must not delete what is unlogged
            self._unlogged.append(result)
            self._unlogged_bytes += sum(
                length for ranges in result.reads.values() for _, length, _ in ranges
            )
        self._done.append(task.number)
        self._proved += proved
        for file in task.files - self._closed:
            self._missing[file] -= 1
            if not self._missing[file]:
                self._finish_file(file)
        if self._unlogged_bytes >= self._batch_bytes:
            self._write_log()
            if self._reclaimer:
                self._wait_for_disk()

    def fingerprint(self) -> Fingerprint | None:
        """The fingerprint of what was written; None where an earlier run wrote a part of it."""
        dtypes = {
            region.source: target.dtype
            for target in self._plan.targets()
            for region in target.regions
        }
        digests = {}
        for name, slices in self._slices.items():
            tensor = self._plan.sources[name]
            if len(slices) != tensor.cut.count:
                return None
            digests[name] = tensor_digest(name, dtypes[name], tensor.shape, tensor.cut, slices)
        return combine(digests) if digests else None

    def _finish_file(self, number: int) -> None:
        self._write_log()  # so that the tasks of a file that is whole are known after a stop
        file = self._plan.files[number]
        checksums = {
            record.name: self._record_crc(number, index)
            for index, record in enumerate(file.records)
            if file.framing == "torch-zip"
        }
        self._submit(self._commit, file, checksums)

    def _submit(self, work: Callable[..., None], *arguments: object) -> None:
        self._pending.append(self._thread.submit(self._unless_failed, work, *arguments))

    def _unless_failed(self, work: Callable[..., None], *arguments: object) -> None:
        """Does nothing more after a failure: the system tells of a failed sync only once, and
        the next one, of the same file, would succeed."""
        if self._failed:
            return
        try:
            work(*arguments)
        except BaseException:
            self._failed = True
            raise

    def _record_crc(self, file: int, index: int) -> int:
        record = self._plan.files[file].records[index]
        sums = self._sums.pop((file, index), RangeChecksums())
        sums.add(0, len(record.literal), crc32(record.literal))
        sums.add(
            record.num_bytes - record.fill_bytes, record.fill_bytes, crc32(bytes(record.fill_bytes))
        )
        found = sums.of(0, record.num_bytes)
        if found is None:
            raise AssertionError(f"{record.name}: not all of it was written")
        return found

    def _commit(self, file: PlannedFile, checksums: dict[str, int]) -> None:
        commit(file, self._directory, checksums, sync=self._log is not None)
        self.count.done(file.name)

    def _write_log(self) -> None:
        """Sends off all that came in since the last time, to be synced, logged and reclaimed."""
        if self._log is not None and self._done:
            self._submit(self._sync_and_log, self._unlogged, self._done, self._proved)
        self._unlogged, self._unlogged_bytes, self._done, self._proved = [], 0, [], []

    def _sync_and_log(
        self, results: list[TaskResult], done: list[int], proved: list[StoredRecord]
    ) -> None:
        files = {file for result in results for file in result.task.files}
        for number in files - self._closed:
            with suppress(FileNotFoundError):  # it became whole meanwhile, and was synced then
                sync_file(partial_path(self._directory, self._plan.files[number].name))
        if self._log is not None and results:
            self._log.append(results)
        if self._reclaimer is not None:
            self._reclaimer.release(done, proved)

    def end(self) -> None:
        """Removes what only an unfinished reshard needs."""
        if self._reclaimer is not None:
            self._reclaimer.end()

    def _wait_for_disk(self) -> None:
        while len(self._pending) > RECLAIM_BATCHES_BEHIND:
            self._pending.pop(0).result()

    def _raise_failures(self) -> None:
        while self._pending and self._pending[0].done():
            self._pending.pop(0).result()
