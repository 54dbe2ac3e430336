"""Filling a live model's tensors straight from a checkpoint's files, whatever its layout."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import torch

from unshard.dtypes import BFLOAT16, BOOL, FLOAT16, FLOAT32, FLOAT64, INT64, DType
from unshard.errors import CheckpointError
from unshard.execute.blocks import Buffers, stream
from unshard.execute.reader import Reader
from unshard.plan.lower import PlannedTensor, lower_whole
from unshard.progress import Progress, Silent
from unshard.tensors import TensorIndex

TORCH_DTYPES: Mapping[DType, torch.dtype] = {
    FLOAT16: torch.float16,
    BFLOAT16: torch.bfloat16,
    FLOAT32: torch.float32,
    FLOAT64: torch.float64,
    INT64: torch.int64,
    BOOL: torch.bool,
}


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
    planned = {name: lower_whole(index[name]) for name in targets}
    progress.start("load", sum(tensor.num_bytes for tensor in planned.values()))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        fills = [pool.submit(_fill, planned[name], targets[name], progress) for name in targets]
        try:
            for fill in fills:
                fill.result()
        finally:  # of a failure or Ctrl-C: what has not begun is not waited for
            pool.shutdown(wait=False, cancel_futures=True)


def _fill(planned: PlannedTensor, target: torch.Tensor | Rows, progress: Progress) -> None:
    dtype = TORCH_DTYPES.get(planned.dtype)
    if dtype is None:
        raise CheckpointError(f"tensor {planned.name}: cannot compute with {planned.dtype.name}")
    memory = _memory(target, dtype)
    with Reader() as reader, torch.inference_mode():
        row = 0
        for block in stream(planned, reader, Buffers(), into=memory):
            if memory is None:
                rows = torch.frombuffer(block, dtype=dtype).reshape(-1, *planned.shape[1:])
                _put(target, row, rows)
                row += len(rows)
            progress.advance(len(block))


def _memory(target: torch.Tensor | Rows, dtype: torch.dtype) -> memoryview | None:
    """The target's own memory, where stored bytes can be read into it as they are."""
    if not isinstance(target, torch.Tensor) or target.dtype != dtype:
        return None
    if target.device.type != "cpu" or not target.is_contiguous():
        return None
    return target.view(-1).view(torch.uint8).numpy().data


def _put(target: torch.Tensor | Rows, row: int, rows: torch.Tensor) -> None:
    if isinstance(target, torch.Tensor):
        target[row : row + len(rows)].copy_(rows)
    else:
        target.put(row, rows)
