"""Synthetic raw metaseq checkpoints of any shape, from a seed, with the truth beside them.

Written with numpy and zipfile alone, by the rules that the original trainer follows and not
by the code that reads them, so that tests can compare the two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unshard.architectures.opt import OPTConfig
from unshard.dtypes import FLOAT16, FLOAT32, DType
from unshard.formats.records import PickledObject
from unshard.testing.tiny_archive import TinyArchive
from unshard.testing.tiny_arguments import arguments_entries
from unshard.testing.tiny_metaseq import (
    MetaseqForm,
    Unit,
    fsdp_units,
    shard_metadata,
    stored_model,
    version_buffer,
)
from unshard.testing.tiny_model import TINY, Array, tiny_model


def write_tiny_checkpoint(
    directory: str | Path,
    config: OPTConfig = TINY,
    *,
    tp_size: int = 2,
    fsdp_size: int = 3,
    dtype: DType = FLOAT16,
    fused: bool = True,
    seed: int = 0,
    form: MetaseqForm | None = None,
    name: str = "checkpoint_last-model_part-{part}-shard{shard}.pt",
) -> dict[str, Array]:
    """Writes one file of flat parameters for every rank into `directory`.

    `form`, where it is given, says `dtype` and `fused` too. Returns the whole model:
    canonical name -> array in its dtype (bf16 as its bits in uint16).
    """
    form = form or MetaseqForm(dtype=dtype, fused=fused)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    model = tiny_model(config, form.dtype, seed)
    units = fsdp_units(config, form.fused, form.wrapping)
    for tp_rank in range(tp_size):
        flats = [unit.flat(model, tp_rank, tp_size) for unit in units]
        for fsdp_rank in range(fsdp_size):
            slices = [_slice(flat, fsdp_rank, fsdp_size) for flat in flats]
            path = directory / name.format(part=tp_rank, shard=fsdp_rank)
            _write_shard(path, config, form, units, slices, tp_size)
    return stored_model(model, form)


def _slice(flat: Array, rank: int, size: int) -> tuple[Array, int]:
    """One rank's equal share of a flat parameter, and how many zeros fill it up."""
    share = math.ceil(flat.size / size)
    mine = flat[rank * share : (rank + 1) * share]
    return np.pad(mine, (0, share - mine.size)), share - mine.size


def _write_shard(
    path: Path,
    config: OPTConfig,
    form: MetaseqForm,
    units: Sequence[Unit],
    slices: Sequence[tuple[Array, int]],
    tp_size: int,
) -> None:
    archive = TinyArchive()
    model: dict[str, PickledObject] = {}
    for unit, (values, _) in zip(units, slices, strict=True):
        model[unit.full("flat_param_0")] = archive.tensor(values, form.dtype)
        if not unit.path:
            model |= version_buffer(archive, form)
    paddings = [padding for _, padding in slices]
    content = {
        **arguments_entries(form.arguments, config, tp_size, form.fused),
        "model": model,
        "criterion": None,
        "optimizer_history": [{"optimizer_name": "MemoryEfficientFP16Optimizer"}],
        "task_state": {},
        "extra_state": {"train_iterator": {"epoch": 1}, "val_loss": None},
        **(_optimizer_state(archive, slices) if form.optimizer_state else {}),
        **shard_metadata(config, form, units, tp_size, paddings),
    }
    archive.write(path, content)


def _optimizer_state(archive: TinyArchive, slices: Sequence[tuple[Array, int]]) -> dict[str, Any]:
    """Adam's moments, as long as the padded slices: made up, but each element's goes with it."""
    state = {}
    for number, (values, _) in enumerate(slices):
        first = values.astype(np.float32) / 2
        moments = {"exp_avg": first, "exp_avg_sq": first * first}
        state[number] = {"step": 7} | {
            key: archive.tensor(moment, FLOAT32) for key, moment in moments.items()
        }
    groups = [{"lr": 0.00012, "betas": (0.9, 0.95), "params": list(range(len(slices)))}]
    return {"last_optimizer_state": {"state": state, "param_groups": groups, "loss_scale": 4.0}}
