"""Findings that need no second look: constant runs and copies that differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from unshard.architectures.layers import split_layer
from unshard.health.constant_runs import PAGE_BYTES, ConstantRun
from unshard.health.findings import Finding, Place, byte_of, index_of, place_of
from unshard.health.tensor_pass import TensorPass

COMMON_SHARE = 0.25
"""Runs that so many layers have at the same tensor were trained, or initialised, like that."""
RESERVED_ROWS = 8
"""An embedding keeps rows that nothing trains: padding, unused positions, filler words."""


def differing_copies(seen: TensorPass) -> Iterator[Finding]:
    """One finding for all copies of a tensor that are not what the first one is."""
    if not seen.copies:
        return
    chunk = seen.tensor.chunks[0]
    places = []
    for copy in seen.copies:
        path, byte_offset = byte_of(copy.replica, copy.first_element)
        value = _value(seen, copy.there)
        places.append(Place(path, byte_offset, index_of(chunk, copy.first_element), value))
    first = seen.copies[0]
    mine = place_of(chunk, first.first_element, _value(seen, first.here))
    here, there = Path(mine.path).name, Path(places[0].path).name
    yield Finding(
        "corrupt",
        "copies differ",
        seen.tensor.name,
        f"{len(seen.copies)} of {len(seen.tensor.replicas)} further copies differ from the one in "
        f"{here}; {there} in {first.num_elements:,} of {seen.tensor.num_elements:,} elements, the "
        f"first at [{', '.join(map(str, mine.index))}]: {mine.value:g} and {places[0].value:g}",
        max(copy.num_elements for copy in seen.copies),
        (mine, *places),
    )


def _value(seen: TensorPass, bits: int) -> float:
    return float(seen.form.decode(np.array([bits], seen.form.raw))[0])


def constant_pages(passes: Sequence[TensorPass]) -> Iterator[Finding]:
    """Runs of one value that the same tensor of other layers does not have."""
    kin: dict[str, list[bool]] = {}
    for seen in passes:
        layer, kind = split_layer(seen.tensor.name)
        if layer is not None:
            kin.setdefault(kind, []).append(bool(seen.runs))
    for seen in passes:
        if seen.runs and not _is_common(seen, kin):
            yield _constant(seen)


def _is_common(seen: TensorPass, kin: Mapping[str, Sequence[bool]]) -> bool:
    """Whether runs like these are usual for this tensor."""
    layer, kind = split_layer(seen.tensor.name)
    shape = seen.tensor.shape
    if layer is None:
        reserved = RESERVED_ROWS * shape[-1] if len(shape) > 1 else seen.tensor.num_elements
        return sum(run.length for run in seen.runs) <= reserved
    others = len(kin[kind]) - 1
    with_runs = sum(kin[kind]) - 1
    return with_runs >= COMMON_SHARE * others if others else len(shape) < 2


def _constant(seen: TensorPass) -> Finding:
    count = sum(run.length for run in seen.runs)
    size = seen.tensor.dtype.itemsize_bytes
    is_page = any(run.length * size >= PAGE_BYTES for run in seen.runs)
    places = tuple(_start(seen, run) for run in seen.runs)
    runs = "one run" if len(places) == 1 else f"{len(places)} runs"
    usual = "the same tensor of other layers has none"
    if split_layer(seen.tensor.name)[0] is None:
        usual = f"only {RESERVED_ROWS} rows would be usual"
    return Finding(
        "corrupt" if is_page and len(seen.tensor.shape) > 1 else "suspicious",
        "constant",
        seen.tensor.name,
        f"{count:,} elements ({count / seen.tensor.num_elements:.2%}) are {places[0].value:g} in "
        f"{runs}, as in a file that was not written to its end; {usual}",
        count,
        places,
    )


def _start(seen: TensorPass, run: ConstantRun) -> Place:
    return place_of(seen.tensor.chunks[run.chunk], run.start, _value(seen, run.bits))
