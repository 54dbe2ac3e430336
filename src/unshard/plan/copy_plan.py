"""The plan of a reshard: every output byte and where it comes from, as data.

Nothing in it runs. Source tensors are listed once, target tensors say which boxes of them
they hold, and output files say which bytes of target tensors lie where. `execute` carries it
out, a dry run prints it, `plan_json` carries it to another machine or across a restart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from unshard.dtypes import DType
from unshard.errors import CheckpointError
from unshard.tensors import LogicalTensor, Shape, Sized, StoredRecord

Framing = Literal["plain", "torch-zip"]


@dataclass(frozen=True, slots=True)
class Box:
    """The elements `[offsets, offsets + sizes)` of a tensor, dimension by dimension."""

    offsets: Shape
    sizes: Shape

    @property
    def ends(self) -> Shape:
        return tuple(start + size for start, size in zip(self.offsets, self.sizes, strict=True))


@dataclass(frozen=True, slots=True)
class Region:
    """Box `box` of the source tensor `source` lies at `at` of a target tensor, and spans the
    whole of its rows."""

    source: str
    box: Box
    at: Shape


@dataclass(frozen=True, slots=True, eq=False)
class TargetTensor(Sized):
    """A tensor to make; `regions` cover each of its elements exactly once.

    Where `dtype` is not the source's, elements are cast, rounding to nearest even.
    """

    name: str
    dtype: DType
    shape: Shape
    regions: tuple[Region, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes `[start, stop)` of a target tensor, row-major."""

    tensor: TargetTensor
    start: int
    stop: int


def whole_span(tensor: TargetTensor) -> Span:
    """All of a tensor's bytes."""
    return Span(tensor, 0, tensor.num_bytes)


@dataclass(frozen=True, slots=True)
class Record:
    """Contiguous bytes at `offset` of an output file: literal ones, then spans end to end, then
    `fill_bytes` zeros."""

    name: str
    offset: int
    literal: bytes = b""
    spans: tuple[Span, ...] = ()
    fill_bytes: int = 0

    @property
    def num_bytes(self) -> int:
        spanned = sum(span.stop - span.start for span in self.spans)
        return len(self.literal) + spanned + self.fill_bytes


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One output file; what lies between its records is the framing's."""

    name: str
    framing: Framing
    records: tuple[Record, ...]
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Omission:
    """A source tensor that the target layout has no place for, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class CopyPlan:
    """All output files of one reshard.

    `sources` holds every source tensor that is read, once; `weights` names those that the
    output's fingerprint is of. `stored` are the records of source files whose checksums are
    known, to be compared with what is read.
    """

    source: str
    target: str
    """The target layout in words."""
    sources: Mapping[str, LogicalTensor]
    files: tuple[PlannedFile, ...]
    weights: frozenset[str] = frozenset()
    omissions: tuple[Omission, ...] = ()
    stored: tuple[StoredRecord, ...] = ()

    @property
    def num_bytes(self) -> int:
        return sum(file.num_bytes for file in self.files)

    def targets(self) -> Iterator[TargetTensor]:
        """Every target tensor once, in the order of the files that hold them."""
        seen: set[int] = set()
        for file in self.files:
            for span in (span for record in file.records for span in record.spans):
                if id(span.tensor) not in seen:
                    seen.add(id(span.tensor))
                    yield span.tensor

    def source_paths(self) -> list[str]:
        """Every input file that the plan reads, sorted."""
        return sorted({piece.path for each in self.sources.values() for piece in each.ranges()})

    def check(self) -> None:
        """
        Raises:
            CheckpointError: a target tensor is not covered exactly once, a region cuts its
                rows, or a source tensor has no place.
        """
        placed = dict.fromkeys(self.sources, 0)
        for target in self.targets():
            covered = 0
            for region in target.regions:
                placed[region.source] += math.prod(region.box.sizes)
                covered += math.prod(region.box.sizes)
                if region.box.sizes[1:] != target.shape[1:]:
                    raise CheckpointError(f"{target.name}: {region.source} cuts through its rows")
            if covered != target.num_elements:
                raise CheckpointError(
                    f"{target.name}: {covered} of its {target.num_elements} elements are stored"
                )
        for name, count in placed.items():
            if count < self.sources[name].num_elements:
                raise CheckpointError(f"{name}: only {count} of its elements have a place")
