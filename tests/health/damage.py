"""A checkpoint large enough to have distributions, and ways to damage it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from unshard.architectures.opt import OPTConfig
from unshard.execute.blocks import Buffers, stream
from unshard.execute.reader import Reader
from unshard.health.findings import HealthReport, Place
from unshard.health.scan import scan_health
from unshard.index.build import open_checkpoint
from unshard.tensors import ByteRange, TensorRef

CONFIG = OPTConfig(
    num_layers=6,
    hidden_size=64,
    num_heads=4,
    ffn_dim=256,
    vocab_size=512,
    max_positions=62,
    embedding_size=64,
)


def scan(folder: Path, **options: int) -> HealthReport:
    return scan_health(str(folder), open_checkpoint(folder).index, **options)


def read_tensor(folder: Path, name: str) -> np.ndarray:
    """The whole tensor through the stream that every other sink reads."""
    tensor = open_checkpoint(folder).index[name]
    with Reader() as reader:
        blocks = [bytes(block) for block in stream(tensor, reader, Buffers())]
    return np.frombuffer(b"".join(blocks), tensor.dtype.numpy).reshape(tensor.shape)


def stored_at(place: Place, dtype: str = "<f2") -> float:
    """What the file itself holds where `place` says."""
    size = np.dtype(dtype).itemsize
    data = Path(place.path).read_bytes()[place.byte_offset : place.byte_offset + size]
    return float(np.frombuffer(data, dtype)[0])


def element_range(ref: TensorRef, element: int) -> ByteRange:
    """Where a stored element lies, counted range by range."""
    at = element * ref.dtype.itemsize_bytes
    for piece in ref.ranges:
        if at < piece.length:
            return ByteRange(piece.path, piece.offset + at, ref.dtype.itemsize_bytes)
        at -= piece.length
    raise IndexError(element)


def overwrite(where: ByteRange, data: bytes) -> None:
    with Path(where.path).open("r+b") as file:
        file.seek(where.offset)
        file.write(data)


def plant(folder: Path, name: str, chunk: int, values: dict[int, int]) -> set[tuple[str, int]]:
    """Writes fp16 patterns over elements of one chunk; returns (path, byte) of each."""
    ref = open_checkpoint(folder).index[name].chunks[chunk].ref
    places = set()
    for element, pattern in values.items():
        where = element_range(ref, element)
        overwrite(where, pattern.to_bytes(2, "little"))
        places.add((where.path, where.offset))
    return places


def fill(folder: Path, name: str, pattern: bytes) -> None:
    """Writes `pattern` over every element of a tensor."""
    for chunk in open_checkpoint(folder).index[name].chunks:
        for piece in chunk.ref.ranges:
            overwrite(piece, pattern * (piece.length // len(pattern)))
