"""FSDP flat parameters: which bytes of which files are which tensor of one TP part.

fairscale's rule: a unit's tensors are laid end to end, row-major; rank f of F holds
elements [f*n, (f+1)*n) with n = ceil(total / F), filled with zeros at the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unshard.errors import CheckpointError
from unshard.formats.records import as_mapping, as_shape
from unshard.formats.torch_zip import TorchFile, tensors_of
from unshard.index.slices import concatenate, slice_elements
from unshard.tensors import Shape, TensorRef

FLAT_PARAMETER = "flat_param_"


@dataclass(frozen=True)
class PartTensors:
    """The tensors of one tensor-parallel part, with local shapes and metaseq's names."""

    tensors: dict[str, TensorRef]
    copies: dict[str, tuple[TensorRef, ...]]
    """Buffers that the FSDP ranks after the first also hold."""
    units: tuple[tuple[str, ...], ...]
    """Names by FSDP unit, root first; buffers are units of their own, last."""
    stored_bytes: int
    padding_bytes: int
    flat: bool
    """Whether the files hold flat parameters."""


@dataclass(frozen=True, slots=True)
class FlatParameter:
    """What `shard_metadata` says of one flat parameter, from one rank's file."""

    key: str
    names: tuple[str, ...]
    shapes: tuple[Shape, ...]
    padding: int
    """Elements of zero fill at the end of this rank's slice."""


def is_flat(model: dict[str, TensorRef]) -> bool:
    """Whether a state dict holds flat parameters instead of tensors."""
    return any(name.rsplit(".", 1)[-1].startswith(FLAT_PARAMETER) for name in model)


def read_part(files: Sequence[TorchFile]) -> PartTensors:
    """The tensors of one part from the files of all its FSDP ranks, in rank order.

    Raises:
        CheckpointError: the files do not fit together, or their metadata is absent.
    """
    models = [_model_of(file) for file in files]
    for file, model in zip(files, models, strict=True):
        if list(model) != list(models[0]):
            raise CheckpointError(f"{file.path}: holds other parameters than {files[0].path}")
    if is_flat(models[0]):
        return _unflatten(files, models)
    if len(files) > 1:
        raise CheckpointError(
            f"{files[0].path}: is unflattened, yet there are {len(files)} FSDP shards of this part"
        )
    return _as_stored(files[0], models[0])


def _model_of(file: TorchFile) -> dict[str, TensorRef]:
    content = as_mapping(file.content)
    if content is None or "model" not in content:
        raise CheckpointError(
            f"{file.path}: has no 'model' entry, so it is no metaseq checkpoint",
            hint="is this the right folder?",
        )
    return {ref.name: ref for ref in tensors_of(file, content["model"], "model")}


def _as_stored(file: TorchFile, model: dict[str, TensorRef]) -> PartTensors:
    flats = [flat for flat in _flat_parameters(file) if set(flat.names) <= set(model)]
    grouped = {name for flat in flats for name in flat.names}
    units = (*(flat.names for flat in flats), *((name,) for name in model if name not in grouped))
    stored_bytes = sum(ref.num_bytes for ref in model.values())
    return PartTensors(model, {}, units, stored_bytes, padding_bytes=0, flat=False)


def _unflatten(files: Sequence[TorchFile], models: list[dict[str, TensorRef]]) -> PartTensors:
    flats = [_flat_parameters(file) for file in files]
    if not flats[0]:
        raise CheckpointError(
            f"{files[0].path}: holds flat parameters without shard_metadata, so their names and "
            "shapes are unknown",
            hint="releases from before 2023 are like this; use the v1_20230405 files",
        )
    tensors: dict[str, TensorRef] = {}
    units = []
    padding_bytes = 0
    for number, flat in enumerate(flats[0]):
        ranks = [rank[number] if number < len(rank) else None for rank in flats]
        refs = [model.get(flat.key) for model in models]
        unit, padding = _split_unit(files, flat, ranks, refs)
        tensors |= unit
        units.append(tuple(unit))
        padding_bytes += padding
    copies = {}
    flat_keys = {flat.key for flat in flats[0]}
    for name in (name for name in models[0] if name not in flat_keys):
        tensors[name] = models[0][name]
        copies[name] = tuple(model[name] for model in models[1:])
        units.append((name,))
    stored_bytes = sum(ref.num_bytes for model in models for ref in model.values())
    return PartTensors(tensors, copies, tuple(units), stored_bytes, padding_bytes, flat=True)


def _split_unit(
    files: Sequence[TorchFile],
    flat: FlatParameter,
    ranks: Sequence[FlatParameter | None],
    refs: Sequence[TensorRef | None],
) -> tuple[dict[str, TensorRef], int]:
    """The tensors of one unit, and the bytes of padding at its end."""
    total = sum(math.prod(shape) for shape in flat.shapes)
    share = -(-total // len(files))
    pieces: list[TensorRef] = []
    for rank, (file, ref, said) in enumerate(zip(files, refs, ranks, strict=True)):
        where = f"{file.path}: {flat.key}"
        if ref is None or said is None:
            raise CheckpointError(f"{where}: shard_metadata and model disagree")
        if said.names != flat.names or said.shapes != flat.shapes:
            raise CheckpointError(f"{where}: shard_metadata differs from {files[0].path}")
        if ref.shape != (share,) or ref.dtype != (pieces or [ref])[0].dtype:
            raise CheckpointError(
                f"{where}: has shape {ref.shape} and dtype {ref.dtype.name}; {total} elements "
                f"over {len(files)} shards make ({share},)",
                hint="are all FSDP shards of this part here?",
            )
        padding = min(max((rank + 1) * share - total, 0), share)
        if said.padding != padding:
            raise CheckpointError(
                f"{where}: says {said.padding} elements are padding; {len(files)} shards make "
                f"{padding}",
                hint="are all FSDP shards of this part here?",
            )
        pieces.append(ref)
    whole = concatenate(flat.key, pieces)
    tensors, start = {}, 0
    for name, shape in zip(flat.names, flat.shapes, strict=True):
        tensors[name] = slice_elements(whole, name, start, shape)
        start += math.prod(shape)
    return tensors, (share * len(files) - total) * whole.dtype.itemsize_bytes


def _flat_parameters(file: TorchFile) -> list[FlatParameter]:
    """The file's `shard_metadata`, or nothing when it has none."""
    metadata = as_mapping((as_mapping(file.content) or {}).get("shard_metadata"))
    if metadata is None:
        return []
    flats = []
    units = metadata.get("param_metadata", ())
    if not isinstance(units, list | tuple):
        raise CheckpointError(f"{file.path}: shard_metadata is malformed")
    for unit in units:
        entry = as_mapping(unit) or {}
        path = entry.get("fsdp_path")
        for key, said in (as_mapping(entry.get("params")) or {}).items():
            flats.append(_flat_parameter(file, path, key, as_mapping(said) or {}))
    return flats


def _flat_parameter(file: TorchFile, path: Any, key: Any, said: Any) -> FlatParameter:
    names, shapes, padding = said.get("names"), said.get("shapes"), said.get("padding", 0)
    if not isinstance(path, str) or not isinstance(key, str) or type(padding) is not int:
        raise CheckpointError(f"{file.path}: shard_metadata is malformed")
    if not isinstance(names, list | tuple) or not isinstance(shapes, list | tuple):
        raise CheckpointError(f"{file.path}: shard_metadata of {path or 'the root'} is malformed")
    prefix = f"{path}." if path else ""
    sizes = [as_shape(shape) for shape in shapes]
    if len(names) != len(sizes) or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{file.path}: shard_metadata of {path or 'the root'} is malformed")
    known = tuple(size for size in sizes if size is not None)
    if len(known) != len(sizes):
        raise CheckpointError(f"{file.path}: shard_metadata of {path or 'the root'} has no shapes")
    return FlatParameter(prefix + key, tuple(prefix + name for name in names), known, padding)
