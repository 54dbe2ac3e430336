"""Stored tensors as memory that is the file itself: nothing is read until it is used."""

from __future__ import annotations

import mmap
import os
import warnings
from collections.abc import Iterable

import torch

from unshard.execute.model_sink import TORCH_DTYPES
from unshard.tensors import ByteRange, LogicalTensor, TensorIndex


def map_tensors(
    index: TensorIndex, names: Iterable[str], dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Those of `names` whose file has them whole and in `dtype`, by name; never to be written.

    Their pages are the kernel's own copy of the file: shared between processes, still there
    after a restart, and given up where memory is short, to be read again.

    Raises:
        FormatError: a file is shorter than its headers said.
    """
    files: dict[str, mmap.mmap] = {}
    found = {}
    for name in names:
        stored = _one_range(index[name])
        if stored is None or TORCH_DTYPES.get(index[name].dtype) != dtype:
            continue
        if stored.path not in files:
            files[stored.path] = _map(stored.path)
        file = files[stored.path]
        if stored.offset % dtype.itemsize or stored.offset + stored.length > len(file):
            continue  # what is cut off is said by who reads it
        found[name] = _tensor(file, stored, dtype).reshape(index[name].shape)
    return found


def _one_range(tensor: LogicalTensor) -> ByteRange | None:
    if len(tensor.chunks) != 1 or tensor.replicas or tensor.chunks[0].sizes != tensor.shape:
        return None
    ranges = tensor.chunks[0].ref.ranges
    return ranges[0] if len(ranges) == 1 else None


def _map(path: str) -> mmap.mmap:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # Shared and read-only: counted by no limit on what a process may allocate.
        return mmap.mmap(descriptor, 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
    finally:
        os.close(descriptor)


def _tensor(file: mmap.mmap, stored: ByteRange, dtype: torch.dtype) -> torch.Tensor:
    count = stored.length // dtype.itemsize
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        return torch.frombuffer(file, dtype=dtype, count=count, offset=stored.offset)
