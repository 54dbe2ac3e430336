"""A digest of the weights that is the same in every layout.

Version 2, documented in docs/fingerprint.md. A tensor that tensor parallelism splits is cut
along that dimension into gcd(size, attention heads) slices, the finest cut that any
tensor-parallel size can need; any other tensor is one slice. A slice's digest is BLAKE3 of its
elements, row-major, little-endian. A tensor's digest is BLAKE3 of the line
`name dtype d0xd1… slices dim\\n` and its slices' digests (32 bytes each, in order). The model's
digest is BLAKE3 of the version line and then of the lines `name digest\\n`, sorted by canonical
name. Buffers, which some layouts do not store, are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from blake3 import blake3

from unshard.architectures.opt import weight_names
from unshard.dtypes import DType
from unshard.execute.blocks import Buffers, elements_of, stream
from unshard.execute.reader import Reader
from unshard.execute.slices import SliceDigests, Slicer
from unshard.execute.tasks import task_rows
from unshard.execute.workers import DEFAULT_WORKERS
from unshard.progress import Progress, Silent
from unshard.tensors import Cut, LogicalTensor, Shape, TensorIndex

VERSION = "unshard-fingerprint-2"


@dataclass(frozen=True)
class Fingerprint:
    """Digests (hex BLAKE3) of the whole model and of each weight by canonical name."""

    model: str
    tensors: Mapping[str, str]


def fingerprint(
    index: TensorIndex, *, workers: int = DEFAULT_WORKERS, progress: Progress | None = None
) -> Fingerprint:
    """Reads every weight once and digests it.

    Raises:
        FormatError: a file is shorter than its headers said.
        CheckpointError: copies of a replicated tensor differ.
    """
    progress = progress or Silent()
    weights = [index[name] for name in weight_names(index)]
    progress.start("fingerprint", sum(tensor.num_bytes for tensor in weights))
    work = [(tensor, rows) for tensor in weights for rows in task_rows(tensor)]
    slices: dict[str, dict[int, str]] = {tensor.name: {} for tensor in weights}
    with ThreadPoolExecutor(workers) as pool:
        digested = pool.map(lambda each: _digest_rows(each[0], each[1], progress), work)
        for (tensor, _), digests in zip(work, digested, strict=True):
            slices[tensor.name] |= digests
    return combine(
        {
            tensor.name: tensor_digest(
                tensor.name, tensor.dtype, tensor.shape, tensor.cut, slices[tensor.name]
            )
            for tensor in weights
        }
    )


def _digest_rows(tensor: LogicalTensor, rows: range, progress: Progress) -> dict[int, str]:
    buffers = Buffers()
    digests = SliceDigests(Slicer(tensor.shape, tensor.cut, buffers))
    row = rows.start
    with Reader() as reader:
        for raw in stream(tensor, reader, buffers, rows=rows):
            block = elements_of(tensor, raw)
            digests.add(row, 0, block)
            row += len(block)
            progress.advance(len(raw))
    return digests.digests()


def tensor_digest(
    name: str, dtype: DType, shape: Shape, cut: Cut, slices: Mapping[int, str]
) -> str:
    """The digest of a tensor from those of all its slices (hex, by number)."""
    dimensions = "x".join(map(str, shape))
    head = f"{name} {dtype.name} {dimensions} {cut.count} {cut.dim}\n".encode()
    return blake3(head + b"".join(bytes.fromhex(slices[n]) for n in sorted(slices))).hexdigest()


def combine(tensors: Mapping[str, str]) -> Fingerprint:
    """The fingerprint of a model from its tensors' digests."""
    lines: Sequence[str] = [f"{name} {tensors[name]}\n" for name in sorted(tensors)]
    return Fingerprint(blake3("".join([f"{VERSION}\n", *lines]).encode()).hexdigest(), tensors)
