"""Reading chosen elements of a logical tensor, and hardly a byte beside them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from types import EllipsisType
from typing import Any

import numpy as np
import numpy.typing as npt

from unshard.execute.reader import Observer, Reader
from unshard.tensors import Chunk, LogicalTensor, TensorRef

GAP_BYTES = 64 << 10
"""Where the wanted bytes of two rows lie nearer than this, what lies between is read along:
a cold disk passes over so little faster than it begins another read."""

GROUP_BYTES = 1 << 20
"""Memory for rows that are read along; one row, if it is larger."""

Bits = npt.NDArray[np.unsignedinteger[Any]]
"""Elements as unsigned integers of their width: moving them needs no more."""


def read_elements(
    tensor: LogicalTensor,
    axes: Sequence[range],
    gap_bytes: int | None = None,
    observe: Observer | None = None,
) -> Bits:
    """The elements of `tensor` at every combination of the indices in `axes`, one range per
    dimension, as a new row-major array.

    Whole rows are read exactly. Of rows wanted in part, or of every n-th row, only the
    wanted run is read where `gap_bytes` (`GAP_BYTES`) or more lie between two runs. Replicas are
    not read. `observe` hears of every read.

    Raises:
        FormatError: a file is shorter than its headers said.
    """
    elements = np.empty([len(axis) for axis in axes], f"<u{tensor.dtype.itemsize_bytes}")
    gap_bytes = GAP_BYTES if gap_bytes is None else gap_bytes
    if elements.size:
        upward = [slice(None, None, -1 if axis.step < 0 else 1) for axis in axes]
        forward = [_forward(axis) for axis in axes]
        with Reader(observe) as reader:
            for chunk in tensor.chunks:
                _read_chunk(chunk, forward, _view(elements, upward), reader, gap_bytes)
    return elements


def _forward(axis: range) -> range:
    """The same indices, ascending; a single one has step 1."""
    ascending = axis if axis.step > 0 else axis[::-1]
    return range(ascending[0], ascending[-1] + 1, ascending.step if len(axis) > 1 else 1)


def _read_chunk(
    chunk: Chunk, axes: Sequence[range], target: Bits, reader: Reader, gap_bytes: int
) -> None:
    """Fills the part of `target` that lies in `chunk`; `axes` ascend."""
    local, places = [], []
    for axis, offset, size in zip(axes, chunk.offsets, chunk.sizes, strict=True):
        place = slice(_count_below(axis, offset), _count_below(axis, offset + size))
        inside = axis[place]
        if not inside:
            return
        local.append(range(inside[0] - offset, inside[-1] - offset + 1, inside.step))
        places.append(place)
    _read_box(chunk.ref, local, _view(target, places), reader, gap_bytes)


def _count_below(axis: range, index: int) -> int:
    """How many of the ascending indices in `axis` are smaller than `index`."""
    return min(max(-((axis.start - index) // axis.step), 0), len(axis))


def _read_box(
    ref: TensorRef, axes: Sequence[range], target: Bits, reader: Reader, gap_bytes: int
) -> None:
    """Fills `target` with the elements of one stored tensor at `axes`, which ascend."""
    rows, columns = (axes[0] if axes else range(1)), axes[1:]
    row_size, itemsize = math.prod(ref.shape[1:]), ref.dtype.itemsize_bytes
    whole_rows = target.size == len(rows) * row_size
    if whole_rows and rows.step == 1 and target.flags.c_contiguous:
        reader.read_into(ref, rows[0] * row_size * itemsize, _memory(target))
        return
    run = range(columns[0][0], columns[0][-1] + 1) if len(columns) == 1 else range(row_size)
    run_shape = (len(run),) if len(columns) == 1 else ref.shape[1:]
    chosen = [slice(axis[0] - run[0], axis[-1] - run[0] + 1, axis.step) for axis in columns]
    done = 0
    for runs in _read_runs(ref, rows, run, reader, gap_bytes):
        part = _view(runs.reshape(len(runs), *run_shape), [slice(None), *chosen])
        target[done : done + len(part)] = part
        done += len(part)


def _read_runs(
    ref: TensorRef, rows: range, run: range, reader: Reader, gap_bytes: int
) -> Iterator[Bits]:
    """The elements `run` of each row in `rows`, some rows at a time; valid until the next."""
    row_size, itemsize = math.prod(ref.shape[1:]), ref.dtype.itemsize_bytes
    pitch, at_once = len(run), 1
    if (rows.step * row_size - len(run)) * itemsize < gap_bytes:
        pitch = rows.step * row_size
        at_once = max(1, GROUP_BYTES // (pitch * itemsize))
    scratch = np.empty((min(at_once, len(rows)), pitch), f"<u{itemsize}")
    for group in (rows[at : at + at_once] for at in range(0, len(rows), at_once)):
        start = group[0] * row_size + run[0]
        size = group[-1] * row_size + run[-1] + 1 - start
        reader.read_into(ref, start * itemsize, _memory(scratch)[: size * itemsize])
        yield scratch[: len(group), : len(run)]


def _memory(elements: Bits) -> memoryview:
    return elements.reshape(-1).view(np.uint8).data


def _view(elements: Bits, parts: Sequence[slice]) -> Bits:
    """A view, also where there are no dimensions and numpy would give a copy."""
    index: tuple[slice | EllipsisType, ...] = (*parts, ...)
    return elements[index]
