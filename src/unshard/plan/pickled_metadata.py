"""`shard_metadata` as a file pickles it: its own strings, and a copy for other shards.

`index.shard_metadata` reads and checks what it means. Here it is kept as it is, because the
output's pickle has its very strings, shared as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unshard.errors import CheckpointError
from unshard.formats.records import as_mapping, as_shape
from unshard.index.fsdp import padding_of
from unshard.plan.copy_plan import TargetTensor


@dataclass(frozen=True, slots=True)
class FlatNames:
    """A flat parameter's name in the model, and those of its tensors."""

    key: str
    names: list[str]


def flat_names(metadata: Mapping[str, Any]) -> Iterator[FlatNames]:
    """The flat parameters in order. A name in the root is the metadata's own string."""
    for unit in _units(metadata):
        path = unit["fsdp_path"]
        for own_name, said in _entries(unit.get("params")).items():
            names = [_joined(path, name) for name in _entries(said)["names"]]
            yield FlatNames(_joined(path, own_name), names)


def buffer_names(where: str, metadata: Mapping[str, Any]) -> Sequence[str]:
    """What FSDP does not shard, in order.

    Raises:
        CheckpointError: the entry of the file `where` is malformed.
    """
    names = metadata.get("buffer_names", ())
    if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
        return names
    raise CheckpointError(f"{where}: shard_metadata's buffer_names is malformed")


def for_shard(
    metadata: Mapping[str, Any],
    tensors: Mapping[str, Sequence[TargetTensor]],
    rank: int,
    count: int,
) -> dict[str, Any]:
    """The metadata for shard `rank` of `count` of flat parameters that hold `tensors` by key."""
    units = []
    for unit in _units(metadata):
        flats = {
            own_name: _restated(_entries(said), tensors[_joined(unit["fsdp_path"], own_name)])
            for own_name, said in _entries(unit.get("params")).items()
        }
        for own_name, said in flats.items():
            held = tensors[_joined(unit["fsdp_path"], own_name)]
            said["padding"] = padding_of(sum(each.num_elements for each in held), rank, count)
        units.append({**unit, "params": flats})
    return {**metadata, "param_metadata": units}


def _restated(said: Mapping[str, Any], tensors: Sequence[TargetTensor]) -> dict[str, Any]:
    """The entry of one flat parameter; with true shapes where it has those of another number of
    parts, as `reshard_mp` leaves them."""
    shapes = [tensor.shape for tensor in tensors]
    if [as_shape(shape) for shape in said["shapes"]] == shapes:
        return dict(said)
    return {**said, "shapes": shapes, "numels": [tensor.num_elements for tensor in tensors]}


def _units(metadata: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    return map(_entries, metadata.get("param_metadata", ()))


def _entries(value: object) -> Mapping[str, Any]:
    return as_mapping(value) or {}


def _joined(path: str, name: str) -> str:
    """The full name; where `path` is empty, the very same string."""
    return f"{path}.{name}" if path else name
