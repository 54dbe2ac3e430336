"""A digest of the weights that is the same in every layout.

Version 1: a tensor's digest is SHA-256 over the line `name dtype d0xd1…\\n` and then its
bytes, row-major, little-endian, under its canonical name. The model's digest is SHA-256
over the lines `name digest\\n`, sorted by name. Buffers, which some layouts do not store,
are left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from unshard.architectures.opt import weight_names
from unshard.execute.blocks import Buffers, stream
from unshard.execute.reader import Reader
from unshard.execute.run import DEFAULT_WORKERS
from unshard.plan.lower import lower_whole
from unshard.progress import Progress, Silent
from unshard.tensors import LogicalTensor, TensorIndex

VERSION = "unshard-fingerprint-1"


@dataclass(frozen=True)
class Fingerprint:
    """Digests (hex SHA-256) of the whole model and of each weight by canonical name."""

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
    with ThreadPoolExecutor(workers) as pool:
        digests = list(pool.map(lambda tensor: _digest(tensor, progress), weights))
    tensors = {tensor.name: digest for tensor, digest in zip(weights, digests, strict=True)}
    lines = "".join(f"{name} {tensors[name]}\n" for name in sorted(tensors))
    return Fingerprint(hashlib.sha256(lines.encode()).hexdigest(), tensors)


def _digest(tensor: LogicalTensor, progress: Progress) -> str:
    shape = "x".join(map(str, tensor.shape))
    digest = hashlib.sha256(f"{tensor.name} {tensor.dtype.name} {shape}\n".encode())
    buffers = Buffers()
    with Reader() as reader:
        for block in stream(lower_whole(tensor), reader, buffers):
            digest.update(block)
            progress.advance(len(block))
    return digest.hexdigest()
