"""Layers that the trainer grouped into blocks, under the names of single layers.

With `fsdp_checkpoint_wrap_layer_frequency` k > 1, metaseq's decoder holds blocks of k
layers: layer N*k + j is called `decoder.layers.N.layers.j`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from unshard.errors import CheckpointError
from unshard.index.part import PartTensors

IN_BLOCK = re.compile(r"^decoder\.layers\.(\d{1,9})\.layers\.(\d{1,9})\.(.+)$")
IN_LAYER = "decoder.layers."


def unblock(source: str, parts: Sequence[PartTensors]) -> tuple[list[PartTensors], int]:
    """The parts with their layers numbered one by one, and the number of layers in a block.

    Raises:
        CheckpointError: some layers are in blocks and others not, or blocks differ in size.
    """
    matches = [(name, IN_BLOCK.match(name)) for name in parts[0].tensors]
    found = {name: match for name, match in matches if match}
    if not found:
        return list(parts), 1
    for name, match in matches:
        if match is None and name.startswith(IN_LAYER):
            raise CheckpointError(f"{source}: {name} is in no block of layers, unlike others")
    size = _block_size(source, {(int(match[1]), int(match[2])) for match in found.values()})
    renamed = {
        name: f"decoder.layers.{int(match[1]) * size + int(match[2])}.{match[3]}"
        for name, match in found.items()
    }
    return [_rename(part, renamed) for part in parts], size


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
