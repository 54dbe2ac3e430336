"""Layers that the trainer grouped into blocks, under the names of single layers.

With `fsdp_checkpoint_wrap_layer_frequency` k > 1, metaseq's decoder holds blocks of k
layers: layer N*k + j is called `decoder.layers.N.layers.j`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from unshard.errors import CheckpointError
from unshard.index.part import PartTensors

IN_BLOCK = re.compile(r"^decoder\.layers\.(\d{1,9})\.layers\.(\d{1,9})\.(.+)$")
IN_LAYER = "decoder.layers."


def unblock(source: str, part: PartTensors) -> tuple[PartTensors, int]:
    """The part with its layers numbered one by one, and the number of layers in a block.

    Raises:
        CheckpointError: some layers are in blocks and others not, or blocks differ in size.
    """
    found = {name: match for name in part.tensors if (match := IN_BLOCK.match(name))}
    if not found:
        return part, 1
    for name in part.tensors:
        if name.startswith(IN_LAYER) and name not in found:
            raise CheckpointError(f"{source}: {name} is in no block of layers, unlike others")
    size = _block_size(source, {(int(match[1]), int(match[2])) for match in found.values()})
    renamed = {
        name: f"decoder.layers.{int(match[1]) * size + int(match[2])}.{match[3]}"
        for name, match in found.items()
    }
    return _rename(part, renamed), size


def _block_size(source: str, layers: Iterable[tuple[int, int]]) -> int:
    """Blocks are numbered without gaps, and so are the layers in each, equally many."""
    layers = set(layers)
    blocks = 1 + max(block for block, _ in layers)
    size = 1 + max(number for _, number in layers)
    if len(layers) != blocks * size:
        raise CheckpointError(
            f"{source}: {blocks} blocks of {size} layers make {blocks * size} layers, but "
            f"{len(layers)} are here"
        )
    return size


def _rename(part: PartTensors, renamed: Mapping[str, str]) -> PartTensors:
    tensors = {}
    for name, ref in part.tensors.items():
        name = renamed.get(name, name)
        tensors[name] = replace(ref, name=name)
    units = tuple(tuple(renamed.get(name, name) for name in unit) for unit in part.units)
    return replace(part, tensors=tensors, units=units)
