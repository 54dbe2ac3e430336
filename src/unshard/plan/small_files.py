"""What goes along with the weights: generated files, the tokenizer's, storages of other tensors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from unshard.dtypes import UINT8, DType
from unshard.index.checkpoint import Checkpoint
from unshard.index.companions import Companion
from unshard.plan.copy_plan import Box, PlannedFile, Record, Region, TargetTensor, whole_span
from unshard.tensors import ByteRange, LogicalTensor, TensorRef


def literal_file(name: str, content: bytes) -> PlannedFile:
    """A file with this content."""
    return PlannedFile(name, "plain", (Record(name, 0, literal=content),), len(content))


def json_file(name: str, content: Mapping[str, Any]) -> PlannedFile:
    """A JSON file with this content."""
    return literal_file(name, json_bytes(content))


def json_bytes(content: Mapping[str, Any]) -> bytes:
    """The content of a JSON file that people read too."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def copied_companions(
    checkpoint: Checkpoint, names: Mapping[Companion, str]
) -> tuple[list[LogicalTensor], list[PlannedFile]]:
    """The checkpoint's tokenizer files as sources of bytes, and their copies under the target
    layout's names."""
    sources, files = [], []
    for companion, content in checkpoint.companions.items():
        source = stored_bytes(Path(content.path).name, content)
        target = copied(source)
        record = Record(names[companion], 0, spans=(whole_span(target),))
        sources.append(source)
        files.append(PlannedFile(names[companion], "plain", (record,), content.length))
    return sources, files


def stored_bytes(name: str, content: ByteRange) -> LogicalTensor:
    """Bytes that are copied as they are, as a source called `name`."""
    return LogicalTensor.of(TensorRef(name, UINT8, (content.length,), (content,)))


def copied(
    source: LogicalTensor, name: str | None = None, dtype: DType | None = None
) -> TargetTensor:
    """The whole of `source`, in its own dtype or another one."""
    corner = (0,) * len(source.shape)
    region = Region(source.name, Box(corner, source.shape), corner)
    return TargetTensor(name or source.name, dtype or source.dtype, source.shape, (region,))


def carried_storages(name: str, storages: Mapping[str, TensorRef]) -> dict[str, LogicalTensor]:
    """The storages of a source file as sources of bytes called `NAME KEY`, by key."""
    return {key: stored_bytes(f"{name} {key}", ref.ranges[0]) for key, ref in storages.items()}


def used_sources(
    files: Iterable[PlannedFile], sources: Mapping[str, LogicalTensor]
) -> dict[str, LogicalTensor]:
    """Those of `sources` that the planned files hold anything of."""
    used = {
        region.source
        for file in files
        for record in file.records
        for span in record.spans
        for region in span.tensor.regions
    }
    return {name: source for name, source in sources.items() if name in used}
