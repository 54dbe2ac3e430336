"""Storages that tensors beside the weights use, copied as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from unshard.plan.copy_plan import PlannedFile
from unshard.plan.small_files import stored_bytes
from unshard.tensors import LogicalTensor, TensorRef


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
