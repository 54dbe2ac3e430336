"""What the flat parameters of a part hold: as its metadata says, or by arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from unshard.architectures.opt import tensor_rules
from unshard.errors import CheckpointError
from unshard.index.derived_units import derive_flat_parameters
from unshard.index.fsdp import misfit
from unshard.index.fused import logical_shapes, stored_shape
from unshard.index.part import PartFiles
from unshard.index.shape import derive_config, tensor_parallel_size
from unshard.index.shard_metadata import FlatParameter


@dataclass(frozen=True, slots=True)
class FlatLayout:
    """The flat parameters of a part, in order, and what says so."""

    flats: tuple[FlatParameter, ...]
    evidence: str


def flat_layout(source: str, part: PartFiles, tp_size: int) -> FlatLayout:
    """What the flat parameters of `part`, one of `tp_size`, hold.

    Raises:
        CheckpointError: nothing says it, or the numbers of elements do not come out.
    """
    if part.first.metadata is None:
        return FlatLayout(*derive_flat_parameters(source, part, tp_size))
    flats = part.first.metadata.flats
    stated = FlatLayout(flats, f"shard_metadata gives names and shapes ({_units(flats)})")
    if misfit(part, flats) is None:
        return stated
    restated = _restated(source, part, flats, tp_size)
    if restated is None or misfit(part, restated) is not None:
        return stated
    return FlatLayout(
        restated,
        f"shard_metadata gives the names ({_units(flats)}), but the shapes of another number of "
        f"parts, as reshard_mp leaves them; with those of {tp_size} every count comes out",
    )


def _units(flats: Sequence[FlatParameter]) -> str:
    return f"{len(flats)} FSDP units" if len(flats) != 1 else "one FSDP unit for everything"


def _restated(
    source: str, part: PartFiles, flats: Sequence[FlatParameter], tp_size: int
) -> tuple[FlatParameter, ...] | None:
    """`flats` with the shapes that one of `tp_size` parts has, or None where they
    describe no whole OPT."""
    local = {
        name: shape for flat in flats for name, shape in zip(flat.names, flat.shapes, strict=True)
    }
    try:
        shapes = logical_shapes(local)
        stated_size = tensor_parallel_size(source, shapes)
        rules = tensor_rules(derive_config(source, shapes, int(stated_size), part.arguments))
        return tuple(
            replace(flat, shapes=tuple(stored_shape(rules, name, tp_size) for name in flat.names))
            for flat in flats
        )
    except CheckpointError:
        return None
