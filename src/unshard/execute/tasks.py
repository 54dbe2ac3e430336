"""A plan as tasks: rows of one source tensor, and every place in the output they go to.

Tasks are independent of each other and can run in any order, on any thread or machine that
sees the files. Each source byte is read by one task, whatever number of places it goes to.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from unshard.plan.copy_plan import Box, CopyPlan, Region, TargetTensor
from unshard.tensors import UNCUT, Cut, LogicalTensor

TASK_BYTES = 32 << 20
"""About how much one task reads: small enough to share out, large enough to read on."""


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes `[start, stop)` of a target tensor lie at `offset` of record `record` of output
    file `file` (both by number); the record begins at `base` of the file."""

    start: int
    stop: int
    file: int
    record: int
    offset: int
    base: int


@dataclass(frozen=True, slots=True)
class Placement:
    """One region of a source tensor in one target tensor, and where that tensor's bytes lie."""

    target: TargetTensor
    region: Region
    extents: tuple[Extent, ...]


@dataclass(frozen=True, slots=True)
class CopyTask:
    """Rows `[start, stop)` of source tensor `source`, to every place they have."""

    number: int
    source: str
    start: int
    stop: int
    files: frozenset[int]
    """Numbers of the output files that it writes to."""

    def num_bytes(self, plan: CopyPlan) -> int:
        """How much of `plan`'s source tensor it is."""
        tensor = plan.sources[self.source]
        return tensor.num_bytes // tensor.num_rows * (self.stop - self.start)


def placements_of(plan: CopyPlan) -> dict[str, list[Placement]]:
    """Every place of every source tensor, by its name."""
    extents: dict[int, list[Extent]] = {}
    for number, file in enumerate(plan.files):
        for index, record in enumerate(file.records):
            offset = len(record.literal)
            for span in record.spans:
                extents.setdefault(id(span.tensor), []).append(
                    Extent(span.start, span.stop, number, index, offset, record.offset)
                )
                offset += span.stop - span.start
    found: dict[str, list[Placement]] = {name: [] for name in plan.sources}
    for target in plan.targets():
        where = tuple(sorted(extents[id(target)], key=lambda extent: extent.start))
        for region in target.regions:
            found[region.source].append(Placement(target, region, where))
    return found


def tasks_of(plan: CopyPlan, placements: dict[str, list[Placement]]) -> list[CopyTask]:
    """All tasks of the plan, numbered in the order in which the output files fill up."""
    order = sorted(plan.sources, key=lambda name: _first_place(placements[name]))
    pieces = [(name, rows) for name in order for rows in task_rows(plan.sources[name])]
    files = {name: frozenset(_files(placements[name])) for name in plan.sources}
    return [
        CopyTask(number, name, rows.start, rows.stop, files[name])
        for number, (name, rows) in enumerate(pieces)
    ]


def _first_place(places: Sequence[Placement]) -> tuple[int, int]:
    return min(
        (
            (extent.file, extent.base + extent.offset)
            for place in places
            for extent in place.extents
        ),
        default=(0, 0),
    )


def _files(places: Sequence[Placement]) -> Iterator[int]:
    return (extent.file for place in places for extent in place.extents)


def task_rows(tensor: LogicalTensor, task_bytes: int = TASK_BYTES) -> Iterator[range]:
    """The tensor's rows in groups of whole slices of its cut, of about `task_bytes`; all at
    once where its slices are columns."""
    rows = tensor.num_rows
    if not rows or tensor.num_elements == 0:
        return
    if tensor.cut.dim != 0 or tensor.cut.count == 1:
        yield range(rows)
        return
    height = rows // tensor.cut.count
    slice_bytes = height * math.prod(tensor.shape[1:]) * tensor.dtype.itemsize_bytes
    step = height * max(1, task_bytes // max(1, slice_bytes))
    for start in range(0, rows, step):
        yield range(start, min(start + step, rows))


def common_cut(tensor: LogicalTensor, places: Sequence[Placement]) -> Cut:
    """The coarsest cut whose slices neither a chunk nor a place of the tensor cuts through."""
    boxes = [Box(chunk.offsets, chunk.sizes) for chunk in tensor.chunks]
    boxes += [place.region.box for place in places]
    for dim in range(min(2, len(tensor.shape)) - 1, -1, -1):
        edges = {edge for box in boxes for edge in (box.offsets[dim], box.ends[dim])}
        if edges != {0, tensor.shape[dim]}:
            return Cut(dim, tensor.shape[dim] // math.gcd(*edges))
    return UNCUT
