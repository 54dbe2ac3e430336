"""The one pass over a tensor's stored bytes: counts, block maxima, runs, copies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from unshard.execute.blocks import Buffers
from unshard.execute.element_values import Bits
from unshard.execute.reader import Reader
from unshard.health.constant_runs import PAGE_BYTES, ConstantRun, constant_runs, join_runs
from unshard.health.float_formats import FloatFormat, float_format
from unshard.health.histogram import BitHistogram
from unshard.health.statistics import TensorStatistics, summarize
from unshard.progress import Progress
from unshard.tensors import LogicalTensor, TensorRef

BLOCK_BYTES = 256 * PAGE_BYTES
"""1 MiB: larger blocks fall out of the processor's cache, smaller ones cost more calls."""
MAX_RUNS = 1000


@dataclass(slots=True)
class CopyDifference:
    """How one stored copy differs from the one that counts as the tensor."""

    replica: TensorRef
    num_elements: int = 0
    first_element: int = 0
    here: int = 0
    """Pattern of the first differing element in the tensor."""
    there: int = 0
    """Pattern of the same element in the copy."""

    def compare(self, start: int, mine: Bits, theirs: Bits) -> None:
        """Takes note of the differing elements of a block that begins at element `start`."""
        if np.array_equal(mine, theirs):
            return
        unequal = np.flatnonzero(mine != theirs)
        if not self.num_elements:
            first = int(unequal[0])
            self.first_element = start + first
            self.here, self.there = int(mine[first]), int(theirs[first])
        self.num_elements += unequal.size


@dataclass(frozen=True)
class TensorPass:
    """What one pass over a tensor leaves behind: some kilobytes, whatever its size."""

    tensor: LogicalTensor
    form: FloatFormat
    statistics: TensorStatistics
    block_maxima: tuple[npt.NDArray[Any], ...]
    """By chunk: the largest magnitude of each block, as a pattern."""
    runs: tuple[ConstantRun, ...]
    copies: tuple[CopyDifference, ...]
    """Those that differ."""


def read_block(ref: TensorRef, number: int, raw: str, reader: Reader, memory: Buffers) -> Bits:
    """Block `number` of a stored tensor as patterns of dtype `raw`.

    It is valid until the next one is read into the same `memory`.
    """
    block = memory.take("block", block_bytes(ref, number))
    reader.read_into(ref, number * BLOCK_BYTES, block)
    return np.frombuffer(block, raw)


def block_bytes(ref: TensorRef, number: int) -> int:
    """The last block is shorter."""
    return min(BLOCK_BYTES, ref.num_bytes - number * BLOCK_BYTES)


def num_blocks(ref: TensorRef) -> int:
    return -(-ref.num_bytes // BLOCK_BYTES)


def elements_per_block(ref: TensorRef) -> int:
    return BLOCK_BYTES // ref.dtype.itemsize_bytes


def pass_over(tensor: LogicalTensor, progress: Progress) -> TensorPass:
    """Reads every stored byte of `tensor` and of its copies once.

    Raises:
        UsageError: its elements are integers.
        FormatError: a file is shorter than its headers said.
    """
    form = float_format(tensor.name, tensor.dtype)
    seen = _Seen(BitHistogram(form), [], [CopyDifference(each) for each in tensor.replicas])
    memory, copy_memory = Buffers(), Buffers()
    maxima = []
    with Reader() as reader:
        for number, chunk in enumerate(tensor.chunks):
            largest = []
            for block in range(num_blocks(chunk.ref)):
                start = block * elements_per_block(chunk.ref)
                bits = read_block(chunk.ref, block, form.raw, reader, memory)
                largest.append(seen.take(number, start, bits))
                progress.advance(bits.nbytes)
                for copy in seen.copies:
                    theirs = read_block(copy.replica, block, form.raw, reader, copy_memory)
                    copy.compare(start, bits, theirs)
                    progress.advance(theirs.nbytes)
            maxima.append(np.array(largest, form.raw))
    return TensorPass(
        tensor,
        form,
        summarize(tensor, seen.histogram),
        tuple(maxima),
        tuple(seen.runs),
        tuple(copy for copy in seen.copies if copy.num_elements),
    )


@dataclass(frozen=True)
class _Seen:
    """What accumulates while the blocks of a tensor go by."""

    histogram: BitHistogram
    runs: list[ConstantRun]
    copies: list[CopyDifference]

    def take(self, chunk: int, start: int, bits: Bits) -> int:
        """Takes in the block at element `start` of chunk number `chunk`; returns its largest
        magnitude."""
        magnitudes = bits & bits.dtype.type(self.histogram.format.magnitude_mask)
        if len(self.runs) < MAX_RUNS:
            join_runs(self.runs, constant_runs(chunk, start, bits))
        return self.histogram.add(bits, magnitudes)
