"""Comparing two checkpoints tensor by tensor, whatever their layouts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from unshard.architectures.layers import split_layer
from unshard.architectures.opt import weight_names
from unshard.dtypes import FLOATS, DType
from unshard.execute.blocks import Buffers, stream
from unshard.execute.reader import Reader
from unshard.execute.value_difference import DifferenceCounter, ValueDifference
from unshard.execute.workers import BLOCK_BYTES, DEFAULT_WORKERS
from unshard.progress import Progress, Silent
from unshard.tensors import LogicalTensor, Shape, TensorIndex

MAX_ITEMSIZE_BYTES = 8


@dataclass(frozen=True, slots=True)
class Difference:
    """One tensor that is not the same in both, and how."""

    name: str
    shapes: tuple[Shape | None, Shape | None]
    """Left and right; None where a checkpoint has no such tensor."""
    dtypes: tuple[DType | None, DType | None]
    values: ValueDifference | None = None
    """None where values are equal or cannot be compared."""

    @property
    def is_comparable(self) -> bool:
        """Both sides have it, in one shape and in dtypes that widen to each other exactly."""
        same_dtype = self.dtypes[0] == self.dtypes[1]
        return self.shapes[0] == self.shapes[1] and (
            same_dtype or all(dtype in FLOATS for dtype in self.dtypes)
        )

    @property
    def has_equal_values(self) -> bool:
        """Only dtypes, signs of zeros or the insides of NaNs differ."""
        return self.is_comparable and (self.values is None or not self.values.num_unequal)

    @property
    def what(self) -> str:
        """The difference in words."""
        left, right = self.dtypes
        if left is None or right is None:
            return f"only in the {'second' if left is None else 'first'} checkpoint"
        if self.shapes[0] != self.shapes[1]:
            return f"shapes differ ({self.shapes[0]}, {self.shapes[1]})"
        values = str(self.values) if self.values is not None else "values equal"
        if left == right:
            return values
        if not self.is_comparable:
            values = "values not compared"
        return f"dtypes differ ({left.name}, {right.name}); {values}"


@dataclass(frozen=True, slots=True)
class LayerDifference:
    """One layer, or with `layer` None everything outside the layers, in numbers."""

    layer: int | None
    num_tensors: int
    num_different_tensors: int
    num_different_elements: int
    """Of the tensors that could be compared."""
    num_nan: int
    max_abs_delta: float
    """0 where only bits or dtypes differ."""


def diff(
    left: TensorIndex,
    right: TensorIndex,
    *,
    workers: int = DEFAULT_WORKERS,
    progress: Progress | None = None,
) -> list[Difference]:
    """Every tensor that differs, bit for bit, in model order; empty when the models are the
    same.

    Tensors of different floating-point dtypes always differ; their values are compared as
    well, widened exactly. `decoder.version`, a constant that Hugging Face's layout does not
    store, is compared only where both sides have it.

    Raises:
        FormatError: a file is shorter than its headers said.
        CheckpointError: copies of a replicated tensor differ.
    """
    progress = progress or Silent()
    names = compared_names(left, right)
    progress.start("diff", sum(left[name].num_bytes for name in names if name in left))
    with ThreadPoolExecutor(workers) as pool:
        found = pool.map(
            lambda name: _difference(name, left.get(name), right.get(name), progress), names
        )
        return [difference for difference in found if difference is not None]


def compared_names(left: TensorIndex, right: TensorIndex) -> list[str]:
    """The tensors of both, in model order."""
    weights = {*weight_names(left), *weight_names(right)}
    names = [name for name in left if name in right or name in weights]
    at = 0
    for name in right:
        if name in left:
            at = names.index(name) + 1
        elif name in weights:
            names.insert(at, name)
            at += 1
    return names


def _difference(
    name: str, left: LogicalTensor | None, right: LogicalTensor | None, progress: Progress
) -> Difference | None:
    found = Difference(
        name,
        (left.shape if left else None, right.shape if right else None),
        (left.dtype if left else None, right.dtype if right else None),
    )
    if left is None or right is None or not found.is_comparable:
        progress.advance(left.num_bytes if left else 0)
        return found
    values = _compare(left, right, progress)
    if values is None and left.dtype == right.dtype:
        return None
    return Difference(name, found.shapes, found.dtypes, values)


def _compare(
    left: LogicalTensor, right: LogicalTensor, progress: Progress
) -> ValueDifference | None:
    counter = DifferenceCounter(left.shape, left.dtype, right.dtype)
    for mine, theirs in _blocks(left, right):
        counter.add(mine, theirs)
        progress.advance(len(mine))
    return counter.result()


def _blocks(left: LogicalTensor, right: LogicalTensor) -> Iterator[tuple[memoryview, memoryview]]:
    """Pairs of blocks of the same elements, whatever the dtypes."""
    with Reader() as reader:
        yield from zip(_stream(left, reader), _stream(right, reader), strict=True)


def _stream(tensor: LogicalTensor, reader: Reader) -> Iterator[memoryview]:
    block_bytes = BLOCK_BYTES * tensor.dtype.itemsize_bytes // MAX_ITEMSIZE_BYTES
    return stream(tensor, reader, Buffers(), block_bytes)


def layer_differences(
    left: TensorIndex, right: TensorIndex, differences: Sequence[Difference]
) -> list[LayerDifference]:
    """`differences` by layer, what is outside the layers first; layers without one as well."""
    by_name = {difference.name: difference for difference in differences}
    layers: dict[int | None, list[Difference | None]] = {}
    for name in compared_names(left, right):
        layers.setdefault(split_layer(name)[0], []).append(by_name.get(name))
    return [
        _layer(layer, layers[layer])
        for layer in sorted(layers, key=lambda number: -1 if number is None else number)
    ]


def _layer(layer: int | None, tensors: Sequence[Difference | None]) -> LayerDifference:
    different = [each for each in tensors if each is not None]
    values = [each.values for each in different if each.values is not None]
    deltas = [each.max_abs_delta for each in values if each.max_index is not None]
    return LayerDifference(
        layer,
        len(tensors),
        len(different),
        sum(each.num_different for each in values),
        sum(each.num_nan for each in values),
        max(deltas, default=0.0),
    )
