"""Synthetic consolidated metaseq checkpoints: one file per part, every tensor by its name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from unshard.architectures.opt import OPTConfig
from unshard.formats.records import PickledObject
from unshard.testing.tiny_archive import TinyArchive, view
from unshard.testing.tiny_arguments import arguments_entries
from unshard.testing.tiny_metaseq import (
    TIED,
    MetaseqForm,
    Unit,
    fsdp_units,
    shard_metadata,
    stored_model,
    version_buffer,
)
from unshard.testing.tiny_model import TINY, Array, tiny_model


def write_tiny_parts(
    directory: str | Path,
    config: OPTConfig = TINY,
    *,
    tp_size: int = 2,
    seed: int = 0,
    form: MetaseqForm | None = None,
    storages: Literal["unit", "tensor"] = "unit",
    metadata_tp_size: int | None = None,
    name: str = "reshard-model_part-{part}.pt",
) -> dict[str, Array]:
    """Writes what `reshard_fsdp` (a storage per unit) or `reshard_mp` (a storage per tensor)
    leaves, one file for every part, into `directory`.

    `shard_metadata` has the shapes of `metadata_tp_size` parts where that is given, because
    `reshard_mp` leaves the old ones. Returns the whole model, as `write_tiny_checkpoint`.
    """
    form = form or MetaseqForm()
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    model = tiny_model(config, form.dtype, seed)
    units = fsdp_units(config, form.fused, form.wrapping)
    for tp_rank in range(tp_size):
        archive = TinyArchive()
        flats = [unit.flat(model, tp_rank, tp_size) for unit in units]
        state = _tensors(archive, form, units, flats, tp_size, whole=storages == "unit")
        content = {
            "model": state | version_buffer(archive, form),
            **shard_metadata(config, form, units, metadata_tp_size or tp_size, [0] * len(units)),
            **arguments_entries(form.arguments, config, tp_size, form.fused),
            "extra_state": {"train_iterator": {"epoch": 1}},
        }
        archive.write(directory / name.format(part=tp_rank), content)
    return stored_model(model, form)


def _tensors(
    archive: TinyArchive,
    form: MetaseqForm,
    units: Sequence[Unit],
    flats: Sequence[Array],
    tp_size: int,
    *,
    whole: bool,
) -> dict[str, PickledObject]:
    """The units' tensors by name: views of one storage per unit, or a storage for each."""
    state = {}
    for unit, flat in zip(units, flats, strict=True):
        storage = archive.storage(flat, form.dtype) if whole else None
        offset = 0
        for name, each in zip(unit.names, unit.parameters, strict=True):
            shape = each.local_shape(tp_size)
            values = flat[offset : offset + math.prod(shape)].reshape(shape)
            state[unit.full(name)] = (
                view(storage, offset, shape) if storage else archive.tensor(values, form.dtype)
            )
            if name == TIED[0] and form.output_copy == "copy":
                state[TIED[1]] = archive.tensor(values, form.dtype)
            offset += values.size
    if form.output_copy == "view":
        state[TIED[1]] = state[TIED[0]]
    return state
