"""The vocabulary of the whole program: weights as references to bytes.

Nothing here touches a file. A `TensorRef` says where a stored tensor's bytes lie, a
`Chunk` says which box of a logical tensor those bytes fill, and a `TensorIndex` is a
checkpoint: logical tensors by name, whatever files they came from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from unshard.dtypes import DType

Shape = tuple[int, ...]


class Sized:
    """What has a dtype and a shape has a size."""

    __slots__ = ()
    dtype: DType
    shape: Shape

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        return self.num_elements * self.dtype.itemsize_bytes

    @property
    def num_rows(self) -> int:
        """The first dimension; a scalar is one row."""
        return self.shape[0] if self.shape else 1


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Half-open range of bytes `[offset, offset + length)` of one file."""

    path: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A run of bytes of one file whose CRC-32 the file itself states (a zip member)."""

    path: str
    name: str
    offset: int
    length: int
    crc32: int


@dataclass(frozen=True, slots=True)
class TensorRef(Sized):
    """A stored row-major tensor that nobody has read yet.

    Its bytes are the concatenation of `ranges` in order: several, because an FSDP flat
    parameter crosses files.
    """

    name: str
    dtype: DType
    shape: Shape
    ranges: tuple[ByteRange, ...]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A box of a logical tensor: `ref` holds its elements `[offsets, offsets + ref.shape)`.

    Same idea as a chunk of torch.distributed.checkpoint.
    """

    offsets: Shape
    ref: TensorRef

    @property
    def sizes(self) -> Shape:
        return self.ref.shape


@dataclass(frozen=True, slots=True)
class Cut:
    """`count` equal slices along dimension `dim`: the units in which a tensor is digested."""

    dim: int
    count: int


UNCUT = Cut(0, 1)


@dataclass(frozen=True, slots=True)
class LogicalTensor(Sized):
    """One whole tensor of the model; its chunks tile it exactly once.

    `replicas` are further copies of the whole tensor that other ranks store; they must be
    equal to the one chunk. `cut` is the finest cut that tensor parallelism can need, so that
    a digest by slices can be taken in any layout.
    """

    name: str
    dtype: DType
    shape: Shape
    chunks: tuple[Chunk, ...]
    replicas: tuple[TensorRef, ...] = ()
    cut: Cut = UNCUT

    @classmethod
    def of(cls, ref: TensorRef, replicas: tuple[TensorRef, ...] = ()) -> LogicalTensor:
        """The tensor that `ref` is the whole of."""
        chunk = Chunk((0,) * len(ref.shape), ref)
        return cls(ref.name, ref.dtype, ref.shape, (chunk,), replicas)

    @property
    def refs(self) -> tuple[TensorRef, ...]:
        """All that is stored of it: its chunks, then its replicas."""
        return (*(chunk.ref for chunk in self.chunks), *self.replicas)

    def ranges(self) -> Iterator[ByteRange]:
        """Every range of bytes that is stored of it."""
        return (piece for ref in self.refs for piece in ref.ranges)


@dataclass(frozen=True, slots=True)
class Ledger:
    """Where every stored byte of the weights belongs: stored = unique + replica + padding."""

    stored_bytes: int
    unique_bytes: int
    replica_bytes: int
    padding_bytes: int


class TensorIndex(Mapping[str, LogicalTensor]):
    """A checkpoint as logical tensors by canonical name, in model order."""

    def __init__(self, tensors: Mapping[str, LogicalTensor], ledger: Ledger) -> None:
        self._tensors: dict[str, LogicalTensor] = dict(tensors)
        self.ledger = ledger

    def __getitem__(self, name: str) -> LogicalTensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    @property
    def num_bytes(self) -> int:
        return sum(tensor.num_bytes for tensor in self.values())
