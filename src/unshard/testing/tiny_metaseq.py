"""What metaseq's raw and consolidated files have in common: FSDP units and metadata."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from unshard.architectures.opt import OPTConfig
from unshard.dtypes import FLOAT16, DType
from unshard.formats.records import Global, PickledObject
from unshard.testing.tiny_archive import TinyArchive
from unshard.testing.tiny_arguments import ArgumentsForm
from unshard.testing.tiny_model import (
    Array,
    Parameter,
    after_layers,
    before_layers,
    layer,
    rounded,
    stored_values,
)

Wrapping = int | Literal["root"]
TIED = ("decoder.embed_tokens.weight", "decoder.output_projection.weight")
SHAPE_FORMS: Mapping[str, Callable[[tuple[int, ...]], Any]] = {
    "tuple": tuple,
    "list": list,
    "size": lambda shape: PickledObject(Global("torch", "Size"), (shape,)),
}


@dataclass(frozen=True, slots=True)
class MetaseqForm:
    """What varies between metaseq's checkpoints beside the numbers of ranks."""

    dtype: DType = FLOAT16
    fused: bool = True
    """K, V and Q as one tensor `qkv_proj`."""
    wrapping: Wrapping = 1
    """Layers per FSDP unit, or `"root"` for one unit that holds everything."""
    arguments: ArgumentsForm = "namespace"
    version: Literal["vector", "scalar", "absent"] = "vector"
    """The shape of the version buffer: (1,), as published, or ()."""
    shapes: Literal["tuple", "list", "size"] = "tuple"
    """How `shard_metadata` spells a shape."""
    shard_metadata: bool = True
    """Whether there is any; the releases of 2022 have none."""
    optimizer_state: bool = False
    """Adam's moments, in raw files."""
    output_copy: Literal["none", "copy", "view"] = "none"
    """Whether a tied output projection is stored too, in consolidated files."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Tensors that FSDP flattens together."""

    path: str
    """Where in the model: empty for the root."""
    names: tuple[str, ...]
    """The tensors' names below `path`."""
    parameters: tuple[Parameter, ...]

    def full(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def flat(self, model: Mapping[str, Array], tp_rank: int, tp_size: int) -> Array:
        """One part's tensors end to end, row-major."""
        return np.concatenate(
            [
                each.local(stored_values(model, each.name), tp_rank, tp_size).reshape(-1)
                for each in self.parameters
            ]
        )


def fsdp_units(config: OPTConfig, fused: bool, wrapping: Wrapping) -> list[Unit]:
    """The units in the trainer's order: the root's own tensors, then the layers'."""
    before, after = before_layers(config), after_layers(config)
    layers = [layer(config, number, fused=fused) for number in range(config.num_layers)]
    if wrapping == "root":
        return [_unit("", [*before, *(each for tensors in layers for each in tensors), *after])]
    blocks = [layers[at : at + wrapping] for at in range(0, len(layers), wrapping)]
    return [
        _unit("", [*before, *after]),
        *(_block(number, block) for number, block in enumerate(blocks)),
    ]


def _unit(path: str, parameters: Sequence[Parameter]) -> Unit:
    return Unit(path, tuple(each.name for each in parameters), tuple(parameters))


def _block(number: int, layers: Sequence[Sequence[Parameter]]) -> Unit:
    """One layer, or several that `fsdp_checkpoint_wrap_layer_frequency` wraps together."""
    names = [
        (f"layers.{at}." if len(layers) > 1 else "") + each.name.split(".", 3)[3]
        for at, tensors in enumerate(layers)
        for each in tensors
    ]
    parameters = tuple(each for tensors in layers for each in tensors)
    return Unit(f"decoder.layers.{number}", tuple(names), parameters)


def shard_metadata(
    config: OPTConfig,
    form: MetaseqForm,
    units: Sequence[Unit],
    tp_size: int,
    paddings: Sequence[int],
) -> dict[str, Any]:
    """The top-level entry that says how to cut the flat parameters, if there is one."""
    if not form.shard_metadata:
        return {}
    entries = [
        _unit_metadata(config, form, unit, tp_size, padding)
        for unit, padding in zip(units, paddings, strict=True)
    ]
    buffers = [] if form.version == "absent" else ["decoder.version"]
    return {"shard_metadata": {"param_metadata": entries, "buffer_names": buffers}}


def _unit_metadata(
    config: OPTConfig, form: MetaseqForm, unit: Unit, tp_size: int, padding: int
) -> dict[str, Any]:
    shapes = [each.local_shape(tp_size) for each in unit.parameters]
    return {
        "fsdp_path": unit.path,
        "params": {
            "flat_param_0": {
                "names": list(unit.names),
                "shapes": [SHAPE_FORMS[form.shapes](shape) for shape in shapes],
                "numels": [math.prod(shape) for shape in shapes],
                "padding": padding,
            }
        },
        "no_broadcast_optim_state": False,
        "shared_param_info": [TIED] if not unit.path and config.tied_embeddings else [],
    }


def version_buffer(archive: TinyArchive, form: MetaseqForm) -> dict[str, PickledObject]:
    """The state dict's entry of the version buffer, if there is one."""
    if form.version == "absent":
        return {}
    shape = (1,) if form.version == "vector" else ()
    values = rounded(np.full(shape, 3, np.float32), form.dtype)
    return {"decoder.version": archive.tensor(values, form.dtype)}


def stored_model(model: dict[str, Array], form: MetaseqForm) -> dict[str, Array]:
    """What of the model a checkpoint of this form holds."""
    absent = "decoder.version" if form.version == "absent" else None
    return {name: values for name, values in model.items() if name != absent}
