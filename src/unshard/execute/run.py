"""Carrying out a `CopyPlan` into files."""

from __future__ import annotations

import os
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path

from isal import isal_zlib

from unshard.disk import sync_directory
from unshard.errors import DestinationError, NoSpaceError
from unshard.execute.blocks import BLOCK_BYTES, Buffers, stream
from unshard.execute.journal import Journal
from unshard.execute.output_file import OutputFile, write_error
from unshard.execute.reader import Reader
from unshard.plan.copy_plan import CopyPlan, PlannedFile, Record
from unshard.progress import Progress, Silent

WRITEBACK_BYTES = 8 << 20
"""How much may wait for the disk before it is asked to begin."""
DEFAULT_WORKERS = min(4, os.cpu_count() or 1)


def peak_buffer_bytes(workers: int = DEFAULT_WORKERS) -> int:
    """Memory that a run's block buffers take at most, for rows of up to a block (bytes)."""
    return 3 * BLOCK_BYTES * workers


def run_plan(
    plan: CopyPlan,
    directory: str | Path,
    *,
    workers: int = DEFAULT_WORKERS,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[Path]:
    """Writes every file of `plan` into `directory`; returns their paths.

    Each file appears under its name only when it is whole and synced. Stopped at any
    moment, the same call goes on with the files that are missing.

    Raises:
        DestinationError, NoSpaceError: the output cannot be written.
        FormatError, CheckpointError: an input is not what its headers said.
    """
    progress = progress or Silent()
    directory = Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(directory, error) from error
    _refuse_own_sources(plan, directory)
    with Journal(plan, directory) as journal, ThreadPoolExecutor(workers) as pool:
        todo = journal.begin(overwrite=overwrite)
        _refuse_full_disk(todo, directory)
        progress.start("reshard", plan.num_bytes)
        progress.advance(plan.num_bytes - sum(file.num_bytes for file in todo))
        for file in todo:
            _write_file(file, directory, pool, progress)
        journal.check_sources()
        sync_directory(directory)
    return [directory / file.name for file in plan.files]


def _refuse_own_sources(plan: CopyPlan, directory: Path) -> None:
    sources = {Path(path).resolve() for path in plan.source_paths()}
    for file in plan.files:
        if (directory / file.name).resolve() in sources:
            raise DestinationError(
                f"{directory / file.name} is one of the files to read",
                hint="choose another output folder",
            )


def _refuse_full_disk(todo: list[PlannedFile], directory: Path) -> None:
    space = os.statvfs(directory)
    free, needed = space.f_bavail * space.f_frsize, sum(file.num_bytes for file in todo)
    if needed > free:
        raise NoSpaceError(
            f"{directory}: {needed} bytes are to be written, {free} are free",
            hint="free some space or choose another disk",
        )


def _write_file(
    file: PlannedFile, directory: Path, pool: ThreadPoolExecutor, progress: Progress
) -> None:
    """Writes one file, its records in parallel."""
    with OutputFile(file, directory) as output:
        records = sorted(file.records, key=lambda record: -record.num_bytes)
        futures = {
            record.name: pool.submit(_write_record, record, output, progress) for record in records
        }
        try:
            wait(futures.values(), return_when=FIRST_EXCEPTION)
            checksums = {name: future.result() for name, future in _failed_first(futures)}
        finally:
            for future in futures.values():
                future.cancel()
            wait(futures.values())
        output.commit(checksums)
        progress.advance(file.num_bytes - sum(record.num_bytes for record in file.records))


def _failed_first(futures: dict[str, Future[int]]) -> list[tuple[str, Future[int]]]:
    """So that the first failure is raised at once, not after all that still runs."""
    return sorted(
        futures.items(), key=lambda each: not (each[1].done() and each[1].exception() is not None)
    )


def _write_record(record: Record, output: OutputFile, progress: Progress) -> int:
    """Writes one record's bytes; returns their CRC-32, or 0 where nobody needs it."""
    checksum, offset = 0, record.offset
    if output.needs_checksums:
        checksum = isal_zlib.crc32(record.literal)
    output.write(record.literal, offset)
    offset += len(record.literal)
    progress.advance(len(record.literal))
    buffers, synced = Buffers(), offset
    with Reader() as reader:
        for tensor in record.tensors:
            for block in stream(tensor, reader, buffers):
                output.write(block, offset)
                if output.needs_checksums:
                    checksum = isal_zlib.crc32(block, checksum)
                offset += len(block)
                progress.advance(len(block))
                if offset - synced >= WRITEBACK_BYTES:
                    output.start_writeback(synced, offset - synced)
                    synced = offset
    return checksum
