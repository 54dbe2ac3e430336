"""The plan of a copy: every output byte and where it comes from, as data.

Nothing in it runs. `execute` carries it out into files, digests or a live model; a dry run
prints it; JSON carries it to another machine.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from unshard.dtypes import DType
from unshard.plan.boxes import Box
from unshard.tensors import Shape, TensorRef

Framing = Literal["plain", "torch-zip"]


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
    """A tensor to make; `items` cover each of its elements exactly once."""

    name: str
    dtype: DType
    shape: Shape
    items: tuple[CopyItem, ...]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize_bytes


@dataclass(frozen=True, slots=True)
class Record:
    """Contiguous bytes at `offset` of an output file: literal ones, or tensors end to end."""

    name: str
    offset: int
    literal: bytes = b""
    tensors: tuple[PlannedTensor, ...] = ()

    @property
    def num_bytes(self) -> int:
        return len(self.literal) + sum(tensor.num_bytes for tensor in self.tensors)


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One output file; what lies between its records is the framing's."""

    name: str
    framing: Framing
    records: tuple[Record, ...]
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Omission:
    """A logical tensor that the target layout has no place for, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class CopyPlan:
    """All output files of one reshard."""

    source: str
    target: str
    """The target layout in words."""
    files: tuple[PlannedFile, ...]
    omissions: tuple[Omission, ...] = ()

    @property
    def num_bytes(self) -> int:
        return sum(file.num_bytes for file in self.files)

    def tensors(self) -> Iterator[PlannedTensor]:
        """Every planned tensor, file by file."""
        for file in self.files:
            for record in file.records:
                yield from record.tensors

    def source_paths(self) -> list[str]:
        """Every input file that the plan reads, sorted."""
        refs = (
            ref
            for tensor in self.tensors()
            for item in tensor.items
            for ref in (item.source, *item.replicas)
        )
        return sorted({piece.path for ref in refs for piece in ref.ranges})

    def to_json(self) -> dict[str, Any]:
        """The whole plan as JSON values; literal bytes in base64."""
        return {
            "source": self.source,
            "target": self.target,
            "files": [_file_json(file) for file in self.files],
            "omissions": [{"name": each.name, "reason": each.reason} for each in self.omissions],
        }

    def digest(self) -> str:
        """SHA-256 of the plan's canonical JSON: equal plans write equal bytes."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def _file_json(file: PlannedFile) -> dict[str, Any]:
    return {
        "name": file.name,
        "framing": file.framing,
        "num_bytes": file.num_bytes,
        "records": [
            {
                "name": record.name,
                "offset": record.offset,
                "literal": base64.b64encode(record.literal).decode(),
                "tensors": [_tensor_json(tensor) for tensor in record.tensors],
            }
            for record in file.records
        ],
    }


def _tensor_json(tensor: PlannedTensor) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "dtype": tensor.dtype.name,
        "shape": tensor.shape,
        "items": [
            {
                "target_box": [item.target_box.offsets, item.target_box.sizes],
                "source_box": [item.source_box.offsets, item.source_box.sizes],
                "source": _ref_json(item.source),
                "replicas": [_ref_json(replica) for replica in item.replicas],
            }
            for item in tensor.items
        ],
    }


def _ref_json(ref: TensorRef) -> dict[str, Any]:
    ranges = [[piece.path, piece.offset, piece.length] for piece in ref.ranges]
    return {"name": ref.name, "dtype": ref.dtype.name, "shape": ref.shape, "ranges": ranges}
