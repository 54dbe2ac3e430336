"""From boxes of logical tensors to copies of stored bytes: how any box of one is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from unshard.dtypes import DType
from unshard.errors import CheckpointError
from unshard.plan.boxes import Box, whole
from unshard.tensors import LogicalTensor, Shape, TensorRef


@dataclass(frozen=True, slots=True)
class CopyItem:
    """Elements `source_box` of `source` become elements `target_box` of a planned tensor.

    `replicas` are other stored copies of `source`; they are read too and must be equal.
    """

    target_box: Box
    source: TensorRef
    source_box: Box
    replicas: tuple[TensorRef, ...] = ()


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """A tensor to read; `items` cover each of its elements exactly once."""

    name: str
    dtype: DType
    shape: Shape
    items: tuple[CopyItem, ...]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize_bytes


@dataclass(frozen=True, slots=True)
class Piece:
    """Box `box` of `tensor`, laid at `at` of a planned tensor."""

    tensor: LogicalTensor
    box: Box
    at: Shape


def lower(
    name: str, shape: Shape, pieces: Sequence[Piece], *, check_replicas: bool
) -> PlannedTensor:
    """The tensor `name` of `shape` as copies from whatever stores its pieces.

    Raises:
        CheckpointError: the pieces differ in dtype or do not cover the target exactly once.
    """
    dtypes = {piece.tensor.dtype for piece in pieces}
    if len(dtypes) != 1:
        names = ", ".join(sorted(dtype.name for dtype in dtypes))
        raise CheckpointError(f"{name}: cannot be put together from several dtypes ({names})")
    items = tuple(item for piece in pieces for item in _items(piece, check_replicas))
    covered = sum(math.prod(item.target_box.sizes) for item in items)
    if covered != math.prod(shape):
        raise CheckpointError(f"{name}: {covered} of its {math.prod(shape)} elements are stored")
    return PlannedTensor(name, dtypes.pop(), shape, items)


def _items(piece: Piece, check_replicas: bool) -> list[CopyItem]:
    items = []
    for chunk in piece.tensor.chunks:
        shared = piece.box.overlap(Box(chunk.offsets, chunk.sizes))
        if shared is None:
            continue
        in_piece = shared.relative_to(piece.box.offsets)
        at = tuple(a + b for a, b in zip(in_piece.offsets, piece.at, strict=True))
        items.append(
            CopyItem(
                target_box=Box(at, shared.sizes),
                source=chunk.ref,
                source_box=shared.relative_to(chunk.offsets),
                replicas=piece.tensor.replicas if check_replicas else (),
            )
        )
    return items


def lower_whole(tensor: LogicalTensor, name: str | None = None) -> PlannedTensor:
    """The logical tensor itself, unsharded; its replicas are checked."""
    piece = Piece(tensor, whole(tensor.shape), (0,) * len(tensor.shape))
    return lower(name or tensor.name, tensor.shape, [piece], check_replicas=True)
