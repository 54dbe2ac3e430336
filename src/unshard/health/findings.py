"""What a health scan reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from unshard.health.outliers import Limits
from unshard.health.statistics import TensorStatistics
from unshard.index.slices import slice_ranges
from unshard.tensors import Chunk, Shape, TensorRef

Severity = Literal["corrupt", "suspicious"]
"""`corrupt`: no healthy file has it. `suspicious`: a person should look."""
FindingKind = Literal["nan", "infinite", "outlier", "constant", "copies differ"]

MAX_PLACES = 1000
"""Coordinates kept per finding; the count is of all."""


@dataclass(frozen=True, slots=True)
class Place:
    """One stored element: where it is in its tensor, and where its bytes are."""

    path: str
    byte_offset: int
    index: Shape
    value: float


def index_of(chunk: Chunk, element: int) -> Shape:
    """Index in the whole logical tensor of the chunk's row-major element `element`."""
    local = np.unravel_index(element, chunk.sizes)
    return tuple(int(at) + offset for at, offset in zip(local, chunk.offsets, strict=True))


def byte_of(ref: TensorRef, element: int) -> tuple[str, int]:
    """File and byte offset of a stored tensor's row-major element."""
    size = ref.dtype.itemsize_bytes
    first = next(slice_ranges(ref.ranges, element * size, size))
    return first.path, first.offset


def place_of(chunk: Chunk, element: int, value: float) -> Place:
    """Everything about one element."""
    path, byte_offset = byte_of(chunk.ref, element)
    return Place(path, byte_offset, index_of(chunk, element), value)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with one tensor, in one sentence and in coordinates."""

    severity: Severity
    kind: FindingKind
    tensor: str
    what: str
    count: int
    """Elements concerned."""
    places: tuple[Place, ...]
    """The first `MAX_PLACES` of them, as they are stored; for a run of equal values or a copy
    that differs, where it begins."""


@dataclass(frozen=True)
class HealthReport:
    """Everything one scan found out."""

    source: str
    tensors: tuple[TensorStatistics, ...]
    """In model order."""
    limits: Mapping[str, Limits]
    """Of every tensor: what its values were judged by."""
    findings: tuple[Finding, ...]
    """The corrupt ones first, each kind in model order."""
    num_bytes: int
    """Read in the one pass over the weights."""
    num_bytes_again: int
    """Read a second time, for the coordinates."""

    @property
    def is_healthy(self) -> bool:
        """Nothing is corrupt."""
        return all(finding.severity != "corrupt" for finding in self.findings)

    @property
    def corrupt(self) -> tuple[Finding, ...]:
        return tuple(each for each in self.findings if each.severity == "corrupt")
