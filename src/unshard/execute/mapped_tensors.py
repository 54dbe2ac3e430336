"""Stored tensors as memory that is the file itself: nothing is read until it is used."""

from __future__ import annotations

import mmap
import os
import warnings
from collections.abc import Mapping

import torch

from unshard.tensors import ByteRange


def map_tensors(stored: Mapping[str, ByteRange], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The elements of each range, by name, flat; never to be written. A range that its file does
    not have to the end is left out: who reads it says so.

    Their pages are the kernel's own copy of the file: shared between processes, still there
    after a restart, and given up where memory is short, to be read again.
    """
    files = {path: _map(path) for path in {each.path for each in stored.values()}}
    return {
        name: _tensor(files[each.path], each, dtype)
        for name, each in stored.items()
        if each.offset + each.length <= len(files[each.path])
    }


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
