"""Carrying out one task: rows are read once, checked, cast and written wherever they go."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from unshard.errors import CheckpointError
from unshard.execute.blocks import (
    Buffers,
    elements,
    elements_of,
    rows_and_columns,
    stream,
)
from unshard.execute.checksums import RangeChecksums, Summed
from unshard.execute.descriptors import Descriptors
from unshard.execute.element_values import cast
from unshard.execute.output_file import write_all
from unshard.execute.reader import Reader
from unshard.execute.slices import Block, SliceChecksums, SliceDigests, Slicer
from unshard.execute.tasks import CopyTask, Extent, Placement, common_cut
from unshard.execute.workers import BLOCK_BYTES
from unshard.plan.copy_plan import CopyPlan
from unshard.progress import Progress
from unshard.tensors import TensorRef

WRITEBACK_BYTES = 8 << 20
"""How much may wait for the disk before it is asked to begin."""


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What a task did: CRC-32s of what it read and wrote, digests of the slices it finished."""

    task: CopyTask
    reads: Mapping[str, Sequence[Summed]]
    """Ranges of source files, by path."""
    writes: Mapping[tuple[int, int], Sequence[Summed]]
    """Ranges of output records, by file and record number."""
    slices: Mapping[int, str]
    """BLAKE3 of slices of the source tensor, as cast; empty for what has no fingerprint."""


@dataclass(frozen=True)
class Copier:
    """Everything that the tasks of one run share."""

    plan: CopyPlan
    placements: Mapping[str, Sequence[Placement]]
    paths: Sequence[str]
    """Where each output file grows, by number."""
    progress: Progress
    closed: frozenset[int] = frozenset()
    """Numbers of the output files that are whole already."""
    block_bytes: int = BLOCK_BYTES
    verify: bool = True
    """Whether reads and writes are compared, and digests taken."""
    write_behind: bool = True
    """Whether the disk is asked to begin writing early, because a sync will follow."""

    def run(self, task: CopyTask, buffers: Buffers) -> TaskResult:
        """Copies the task's rows through `buffers`, which no other thread may use meanwhile.

        Raises:
            CheckpointError: copies of a tensor differ, or what was written is not what was read.
            FormatError: a source file is shorter than its header said.
            NoSpaceError, DestinationError: the output cannot be written.
        """
        with _Copy(self, task, buffers) as copy:
            return copy.run()


Executor = Callable[[Copier, Sequence[CopyTask]], Generator[TaskResult]]
"""Runs tasks somewhere and yields what each did, in any order. Closed early, it returns when
nothing of it runs any more."""


class _Copy:
    def __init__(self, copier: Copier, task: CopyTask, buffers: Buffers) -> None:
        self._copier, self._task, self._buffers = copier, task, buffers
        self._tensor = copier.plan.sources[task.source]
        self._places = copier.placements[task.source]
        self._reads: dict[str, RangeChecksums] = {}
        self._writes: dict[tuple[int, int], RangeChecksums] = {}
        cut = common_cut(self._tensor, self._places)
        slicer = Slicer(self._tensor.shape, cut, buffers)
        self._read_sums = SliceChecksums(slicer)
        self._written_sums = [SliceChecksums(slicer) for _ in self._places]
        self._digests = (
            SliceDigests(Slicer(self._tensor.shape, self._tensor.cut, buffers))
            if copier.verify and task.source in copier.plan.weights
            else None
        )
        self._origins = {id(chunk.ref): chunk.offsets for chunk in self._tensor.chunks}
        self._outputs = Descriptors(os.O_WRONLY)
        self._behind: dict[str, tuple[int, int]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._outputs.__exit__(*exception)

    def run(self) -> TaskResult:
        task, tensor = self._task, self._tensor
        row = task.start
        verify = self._copier.verify
        with Reader(self._observe if verify else None) as reader:
            for raw in stream(
                tensor,
                reader,
                self._buffers,
                self._copier.block_bytes,
                rows=range(task.start, task.stop),
                seen=self._seen if verify else None,
            ):
                block = elements_of(tensor, raw)
                self._place(row, block)
                row += len(block)
                self._copier.progress.advance(len(raw))
        self._flush()
        self._prove()
        return TaskResult(
            task,
            {path: list(ranges) for path, ranges in self._reads.items()},
            {record: list(ranges) for record, ranges in self._writes.items()},
            self._digests.digests() if self._digests else {},
        )

    # What is read.

    def _observe(self, path: str, offset: int, data: memoryview) -> None:
        self._reads.setdefault(path, RangeChecksums()).see(offset, data)

    def _seen(self, ref: TensorRef, row: int, data: memoryview) -> None:
        origin = self._origins[id(ref)]
        block = elements(data, rows_and_columns(ref.shape)[1], ref.dtype.itemsize_bytes)
        first, column = (origin[0] if origin else 0), (origin[1] if len(origin) > 1 else 0)
        self._read_sums.add(first + row, column, block)

    # What is written.

    def _place(self, row: int, block: Block) -> None:
        cast_blocks = {self._tensor.dtype: block}
        for place, sums in zip(self._places, self._written_sums, strict=True):
            dtype = place.target.dtype
            if dtype not in cast_blocks:
                cast_blocks[dtype] = cast(block, self._tensor.dtype, dtype)
            self._write(row, cast_blocks[dtype], place, sums)
        if self._digests is not None:
            dtype = self._places[0].target.dtype
            self._digests.add(row, 0, cast_blocks[dtype])

    def _write(self, row: int, block: Block, place: Placement, sums: SliceChecksums) -> None:
        offsets, sizes = place.region.box.offsets, place.region.box.sizes
        top, height = (offsets[0], sizes[0]) if offsets else (0, 1)
        start, stop = max(row, top), min(row + len(block), top + height)
        if start >= stop:
            return
        left = offsets[1] if len(offsets) > 1 else 0
        width = rows_and_columns(place.target.shape)[1]
        mine = self._contiguous(block[start - row : stop - row, left : left + width])
        if self._copier.verify and place.target.dtype is self._tensor.dtype:
            sums.add(start, left, mine)
        first = (place.region.at[0] if place.region.at else 0) + start - top
        self._write_bytes(mine.data.cast("B"), first * width * mine.itemsize, place.extents)

    def _contiguous(self, block: Block) -> Block:
        if block.flags.c_contiguous:
            return block
        memory = self._buffers.take("part", block.nbytes)
        part: Block = np.frombuffer(memory, block.dtype).reshape(block.shape)
        np.copyto(part, block)
        return part

    def _write_bytes(self, data: memoryview, start: int, extents: Sequence[Extent]) -> None:
        """Writes bytes of a target tensor, beginning at its byte `start`."""
        for extent in _overlapping(extents, start, start + len(data)):
            if extent.file in self._copier.closed:
                continue
            begin, end = max(start, extent.start), min(start + len(data), extent.stop)
            part = data[begin - start : end - start]
            in_record = extent.offset + begin - extent.start
            path = self._copier.paths[extent.file]
            write_all(self._outputs.of(path), path, part, extent.base + in_record)
            if self._copier.plan.files[extent.file].framing == "torch-zip":
                record = (extent.file, extent.record)
                self._writes.setdefault(record, RangeChecksums()).see(in_record, part)
            if self._copier.write_behind:
                self._write_behind(path, extent.base + in_record, len(part))

    def _write_behind(self, path: str, offset: int, num_bytes: int) -> None:
        start, stop = self._behind.get(path, (offset, offset))
        if stop != offset:
            self._start_writeback(path, start, stop)
            start = offset
        stop = offset + num_bytes
        if stop - start >= WRITEBACK_BYTES:
            self._start_writeback(path, start, stop)
            start = stop
        self._behind[path] = start, stop

    def _flush(self) -> None:
        for path, (start, stop) in self._behind.items():
            self._start_writeback(path, start, stop)

    def _start_writeback(self, path: str, start: int, stop: int) -> None:
        if stop > start:
            os.posix_fadvise(self._outputs.of(path), start, stop - start, os.POSIX_FADV_DONTNEED)

    # The proof.

    def _prove(self) -> None:
        """Slices as written, in the target's order, are the slices as read, in the source's."""
        for place, sums in zip(self._places, self._written_sums, strict=True):
            for number, crc in sums.crc32s.items():
                if crc != self._read_sums.crc32s[number]:
                    raise CheckpointError(
                        f"{place.target.name}: what was written of {self._tensor.name} differs "
                        "from what was read",
                        hint="this is a fault of unshard or of this machine's memory: report it",
                    )


def _overlapping(extents: Sequence[Extent], start: int, stop: int) -> Iterator[Extent]:
    return (extent for extent in extents if extent.start < stop and extent.stop > start)
