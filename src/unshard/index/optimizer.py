"""What the trainer's optimizer keeps of each flat parameter.

`last_optimizer_state` = {"state": {i: {name: value}}, "param_groups": [...], ...}, where i
counts flat parameters in the order of `shard_metadata`. A value that is a vector (Adam's
moments) is cut into the shards of its flat parameter, padding and all; anything else is the
same in every shard.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from unshard.errors import CheckpointError
from unshard.formats.records import as_mapping
from unshard.formats.torch_zip import TorchFile, tensor_ref
from unshard.index.slices import concatenate, slice_ranges
from unshard.tensors import TensorRef

KEY = "last_optimizer_state"
Moment = tuple[Any, str]
"""Number of a flat parameter, name of a value that the optimizer keeps of it."""


def read_moments(files: Sequence[TorchFile]) -> dict[Moment, tuple[TensorRef, ...]]:
    """The vectors in the optimizer state of one part: each rank's slice, in rank order.

    Raises:
        CheckpointError: the ranks' states do not fit together.
        FormatError: a file breaks its format.
    """
    ranks = [dict(_vectors(file)) for file in files]
    for file, found in zip(files, ranks, strict=True):
        if found.keys() != ranks[0].keys():
            raise CheckpointError(
                f"{file.path}: its optimizer state holds other values than {files[0].path}'s",
                hint="leave the optimizer state out",
            )
    return {moment: tuple(found[moment] for found in ranks) for moment in ranks[0]}


def joined(where: str, name: str, slices: Sequence[TensorRef], num_elements: int) -> TensorRef:
    """The ranks' slices of a moment as one vector, as long as its flat parameter: its padding
    goes.

    Raises:
        CheckpointError: a slice is not as long as its flat parameter's; `where` names the file.
    """
    whole = concatenate(name, slices)
    share = -(-num_elements // len(slices))
    if any(each.shape != (share,) or each.dtype != whole.dtype for each in slices):
        raise CheckpointError(
            f"{where}: {name}: has {slices[0].num_elements} elements for a parameter that has "
            f"{share} in this shard",
            hint="leave the optimizer's state out",
        )
    ranges = tuple(slice_ranges(whole.ranges, 0, num_elements * whole.dtype.itemsize_bytes))
    return TensorRef(name, whole.dtype, (num_elements,), ranges)


def states_of(content: object) -> Mapping[Any, Mapping[Any, Any]]:
    """The values that the optimizer keeps, by number of the flat parameter; nothing where a
    checkpoint has no optimizer state."""
    said = as_mapping((as_mapping(content) or {}).get(KEY)) or {}
    states = as_mapping(said.get("state")) or {}
    return {number: as_mapping(state) or {} for number, state in states.items()}


def _vectors(file: TorchFile) -> Iterator[tuple[Moment, TensorRef]]:
    for number, state in states_of(file.content).items():
        for name, value in state.items():
            ref = tensor_ref(file, f"{KEY}.{number}.{name}", value)
            if ref is not None and ref.shape:
                yield (number, name), ref
