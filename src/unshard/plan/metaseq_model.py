"""The `model` of metaseq files: one part's units as views of storages, or as flat parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unshard.architectures.opt import VERSION_BUFFER
from unshard.dtypes import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, DType
from unshard.plan.copy_plan import TargetTensor
from unshard.plan.flat_shards import flat_shards
from unshard.plan.metaseq_units import Unit
from unshard.plan.torch_archive import TargetStorage, pickled_tensor, views_of

THREE = {
    FLOAT16: b"\x00\x42",
    BFLOAT16: b"\x40\x40",
    FLOAT32: b"\x00\x00\x40\x40",
    FLOAT64: b"\x00\x00\x00\x00\x00\x00\x08\x40",
}
"""The version buffer's only element, by dtype, little-endian."""


@dataclass(frozen=True, slots=True)
class LocalUnit:
    """An FSDP unit and its tensors as one tensor-parallel rank has them."""

    unit: Unit
    tensors: list[TargetTensor]

    @property
    def num_elements(self) -> int:
        return sum(tensor.num_elements for tensor in self.tensors)


def version_storage(dtype: DType) -> TargetStorage:
    """The version buffer for models whose files do not store it."""
    kind = dtype if dtype in THREE else FLOAT32
    return TargetStorage(kind, (), literal=THREE[kind])


def unflattened_model(units: Sequence[LocalUnit], version: TargetStorage) -> dict[str, Any]:
    """Tensors by name; those of a unit are views of one storage where they share a dtype."""
    model: dict[str, Any] = {}
    for unit in units:
        model |= views_of(unit.tensors)
    return model | _version(version)


def flat_models(
    units: Sequence[LocalUnit], version: TargetStorage, count: int
) -> list[dict[str, Any]]:
    """The flat parameters of each of `count` FSDP shards; the buffer comes behind the root's.

    Raises:
        CheckpointError: the tensors of a unit differ in dtype.
    """
    models: list[dict[str, Any]] = [{} for _ in range(count)]
    for unit in units:
        shards = flat_shards(unit.unit.key, unit.tensors, count)
        for model, shard in zip(models, shards, strict=True):
            model[unit.unit.key] = shard
            if not unit.unit.path:
                model |= _version(version)
    return models


def _version(storage: TargetStorage) -> dict[str, Any]:
    return {VERSION_BUFFER: pickled_tensor(storage, 0, (storage.num_elements,))}
