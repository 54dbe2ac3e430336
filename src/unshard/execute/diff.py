"""Comparing two checkpoints tensor by tensor, whatever their layouts."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from unshard.architectures.opt import weight_names
from unshard.dtypes import BFLOAT16, DType
from unshard.execute.blocks import Buffers, stream
from unshard.execute.reader import Reader
from unshard.execute.workers import DEFAULT_WORKERS
from unshard.plan.lower import lower_whole
from unshard.progress import Progress, Silent
from unshard.tensors import LogicalTensor, TensorIndex


@dataclass(frozen=True, slots=True)
class Difference:
    """One tensor that is not the same in both, and how."""

    name: str
    what: str


def diff(
    left: TensorIndex,
    right: TensorIndex,
    *,
    workers: int = DEFAULT_WORKERS,
    progress: Progress | None = None,
) -> list[Difference]:
    """Every tensor that differs, bit for bit; empty when the models are the same.

    `decoder.version`, a constant that Hugging Face's layout does not store, is compared
    only where both sides have it.

    Raises:
        FormatError: a file is shorter than its headers said.
    """
    progress = progress or Silent()
    one_sided = sorted(set(weight_names(left)) ^ set(weight_names(right)))
    found = [
        Difference(name, f"only in the {'first' if name in left else 'second'} checkpoint")
        for name in one_sided
    ]
    shared = [name for name in left if name in right]
    progress.start("diff", sum(left[name].num_bytes for name in shared))
    with ThreadPoolExecutor(workers) as pool:
        compared = pool.map(lambda name: _compare(left[name], right[name], progress), shared)
        return found + [difference for difference in compared if difference is not None]


def _compare(left: LogicalTensor, right: LogicalTensor, progress: Progress) -> Difference | None:
    if left.shape != right.shape:
        return Difference(left.name, f"shapes {left.shape} and {right.shape}")
    if left.dtype != right.dtype:
        return Difference(left.name, f"dtypes {left.dtype.name} and {right.dtype.name}")
    start = 0
    for mine, theirs in _blocks(left, right):
        if mine != theirs:
            return Difference(left.name, _first_difference(left, start, mine, theirs))
        start += len(mine)
        progress.advance(len(mine))
    return None


def _blocks(left: LogicalTensor, right: LogicalTensor) -> Iterator[tuple[memoryview, memoryview]]:
    with Reader() as reader:
        yield from zip(
            stream(lower_whole(left), reader, Buffers()),
            stream(lower_whole(right), reader, Buffers()),
            strict=True,
        )


def _first_difference(
    tensor: LogicalTensor, start: int, left: memoryview, right: memoryview
) -> str:
    """Index and both values of the first differing element of a block at byte `start`."""
    raw = f"u{tensor.dtype.itemsize_bytes}"
    unequal = np.frombuffer(left, raw) != np.frombuffer(right, raw)
    at = int(unequal.argmax())
    element = start // tensor.dtype.itemsize_bytes + at
    index = tuple(int(i) for i in np.unravel_index(element, tensor.shape or (1,)))
    mine, theirs = _value(tensor.dtype, left, at), _value(tensor.dtype, right, at)
    return f"first at index {index}: {mine} and {theirs}"


def _value(dtype: DType, block: memoryview, at: int) -> object:
    if dtype is BFLOAT16:
        bits = np.frombuffer(block, "<u2")[at : at + 1].astype("<u4") << 16
        return bits.view("<f4")[0].item()
    return np.frombuffer(block, dtype.numpy)[at].item()
