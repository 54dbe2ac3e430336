"""Filling a live model's tensors straight from a checkpoint's files, whatever its layout."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import torch

from unshard.dtypes import BFLOAT16, BOOL, FLOAT16, FLOAT32, FLOAT64, INT64, DType
from unshard.errors import CheckpointError, UsageError
from unshard.execute.blocks import Buffers, stream
from unshard.execute.element_values import Bits
from unshard.execute.reader import Reader
from unshard.execute.workers import BLOCK_BYTES
from unshard.progress import Progress, Silent
from unshard.tensors import LogicalTensor, TensorIndex

TORCH_DTYPES: Mapping[DType, torch.dtype] = {
    FLOAT16: torch.float16,
    BFLOAT16: torch.bfloat16,
    FLOAT32: torch.float32,
    FLOAT64: torch.float64,
    INT64: torch.int64,
    BOOL: torch.bool,
}

SHARE_BYTES = 32 << 20
ROWS_BLOCK_BYTES = BLOCK_BYTES // 4
"""For targets that compute with their rows: in several arrays of wider numbers."""


def from_bits(bits: Bits, dtype: DType) -> torch.Tensor:
    """A CPU tensor of `dtype` over the memory of `bits`.

    Raises:
        UsageError: torch does not compute with `dtype`.
    """
    if dtype not in TORCH_DTYPES:
        raise UsageError(f"no torch tensor is made of {dtype.name}", hint="use .numpy()")
    return torch.from_numpy(bits.view(f"i{dtype.itemsize_bytes}")).view(TORCH_DTYPES[dtype])


class Rows(Protocol):
    """A target that is given its rows in blocks, of different threads in any order."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def put(self, first: int, rows: torch.Tensor) -> None:
        """`rows`, valid during the call, are rows `[first, first + len(rows))`."""


def fill_tensors(
    index: TensorIndex, targets: Mapping[str, torch.Tensor | Rows], progress: Progress | None = None
) -> None:
    """Copies logical tensor `name` into `targets[name]`, in any dtype and on any device.

    Targets may be views, such as the K rows of a fused weight. Memory beyond the targets is
    a block per thread; a target of the stored dtype is read in place.

    Raises:
        CheckpointError: the checkpoint has no such tensor, or it has another shape.
        FormatError: a file is shorter than its headers said.
    """
    progress = progress or Silent()
    for name, target in targets.items():
        found = index[name].shape if name in index else None
        if found != tuple(target.shape):
            raise CheckpointError(
                f"tensor {name}: the model needs {tuple(target.shape)}, the checkpoint has {found}"
            )
    fills = [
        _Fill(index[name], target, rows)
        for name, target in targets.items()
        for rows in _shares(index[name])
    ]
    progress.start("load", sum(index[name].num_bytes for name in targets))
    num_threads = torch.get_num_threads()
    # Each thread computes alone: several teams of threads would wait for each other's cores.
    pool = ThreadPoolExecutor(os.cpu_count(), initializer=torch.set_num_threads, initargs=(1,))
    try:
        for done in [pool.submit(fill.run, progress) for fill in fills]:
            done.result()
    finally:  # after a failure or Ctrl-C, what has not begun is not waited for
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(num_threads)


def _shares(stored: LogicalTensor) -> Iterator[range]:
    """The tensor's rows in runs that threads share: one embedding is a third of a small model."""
    step = max(1, stored.num_rows * SHARE_BYTES // max(1, stored.num_bytes))
    for first in range(0, stored.num_rows, step):
        yield range(first, min(first + step, stored.num_rows))


@dataclass(frozen=True, slots=True)
class _Fill:
    """What one thread does in one go: `rows` of a tensor."""

    stored: LogicalTensor
    target: torch.Tensor | Rows
    rows: range

    def run(self, progress: Progress) -> None:
        stored, target = self.stored, self.target
        dtype = TORCH_DTYPES.get(stored.dtype)
        if dtype is None:
            name, found = stored.name, stored.dtype.name
            raise CheckpointError(f"tensor {name}: cannot compute with {found}")
        memory = self._memory(dtype)
        size = BLOCK_BYTES if isinstance(target, torch.Tensor) else ROWS_BLOCK_BYTES
        with Reader() as reader, torch.inference_mode():
            row = self.rows.start
            for block in stream(stored, reader, Buffers(), size, rows=self.rows, into=memory):
                if memory is None:
                    rows = torch.frombuffer(block, dtype=dtype).reshape(-1, *stored.shape[1:])
                    put_rows(target, row, rows)
                    row += len(rows)
                progress.advance(len(block))

    def _memory(self, dtype: torch.dtype) -> memoryview | None:
        """The target's own memory, where stored bytes can be read into it as they are."""
        target = self.target
        if not isinstance(target, torch.Tensor) or target.dtype != dtype:
            return None
        if target.device.type != "cpu" or not target.is_contiguous():
            return None
        rows = target[self.rows.start : self.rows.stop] if target.dim() else target
        return rows.reshape(-1).view(torch.uint8).numpy().data


def put_rows(target: torch.Tensor | Rows, row: int, rows: torch.Tensor) -> None:
    """`rows` become those of `target` from `row` on."""
    if isinstance(target, torch.Tensor):
        target[row : row + len(rows)].copy_(rows)
    else:
        target.put(row, rows)
