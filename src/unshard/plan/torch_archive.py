"""A `torch.save` archive as a planned file: its pickle, its storages, their offsets.

As in `torch.save`, storages get their keys in the order in which pickling meets them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from unshard.dtypes import DType
from unshard.errors import CheckpointError
from unshard.formats.pickle_encode import encode_pickle
from unshard.formats.records import Global, PersistentId, PickledObject
from unshard.formats.torch_zip_layout import VERSION_RECORD, data_offset, lay_out
from unshard.plan.boxes import whole
from unshard.plan.copy_plan import CopyItem, PlannedFile, PlannedTensor, Record
from unshard.tensors import Shape, TensorRef

Storage = tuple[PlannedTensor, ...]
"""Tensors of one dtype that lie end to end in one storage, as views of it."""


@dataclass(frozen=True, slots=True, eq=False)
class _PlannedStorage:
    """A storage of the output, before it has a key."""

    dtype: DType
    num_elements: int
    tensors: Storage


def pickled_model(storages: Sequence[Storage]) -> dict[str, Any]:
    """What pickles as a state dict of these tensors."""
    model: dict[str, Any] = {}
    for tensors in storages:
        total = sum(math.prod(tensor.shape) for tensor in tensors)
        storage = _PlannedStorage(tensors[0].dtype, total, tensors)
        offset = 0
        for tensor in tensors:
            model[tensor.name] = _tensor(storage, offset, tensor.shape)
            offset += math.prod(tensor.shape)
    return model


def _tensor(storage: _PlannedStorage, offset: int, shape: Shape) -> PickledObject:
    strides = tuple(math.prod(shape[dim + 1 :]) for dim in range(len(shape)))
    hooks = PickledObject(Global("collections", "OrderedDict"), ())
    rebuild = Global("torch._utils", "_rebuild_tensor_v2")
    return PickledObject(rebuild, (PersistentId(storage), offset, shape, strides, False, hooks))


class _Storages:
    """Gives keys to storages as pickling meets them, and remembers their bytes."""

    def __init__(self, name: str, source: Mapping[str, TensorRef]) -> None:
        self._name = name
        self._source = source
        self._keys: dict[int | str, str] = {}
        self.tensors: dict[str, Storage] = {}

    def persistent_id(self, record: PersistentId) -> tuple[object, ...]:
        """What the output's pickle says of a storage: planned here, or carried along."""
        value = record.value
        if isinstance(value, _PlannedStorage):
            key = self._key(id(value), value.tensors)
            kind = Global("torch", value.dtype.torch_storage)
            return ("storage", kind, key, "cpu", value.num_elements)
        match value:
            case ("storage", Global() as kind, str(old), str(), int(count)) if old in self._source:
                ref = self._source[old]
                item = CopyItem(whole(ref.shape), ref, whole(ref.shape))
                key = self._key(old, (PlannedTensor(old, ref.dtype, ref.shape, (item,)),))
                return ("storage", kind, key, "cpu", count)
        raise CheckpointError(f"{self._name}: its metadata refers to a storage that is not there")

    def _key(self, identity: int | str, tensors: Storage) -> str:
        key = self._keys.setdefault(identity, str(len(self._keys)))
        self.tensors.setdefault(key, tensors)
        return key


def torch_archive(name: str, content: object, source: Mapping[str, TensorRef]) -> PlannedFile:
    """The planned file `name` that holds `content`, with its records in torch 1.13's order
    (storage keys sorted as strings).

    `content` is plain data and inert records, with tensors of `pickled_model` and tensors
    whose storages are in `source`.

    Raises:
        CheckpointError: a tensor in `content` has no storage.
    """
    storages = _Storages(name, source)
    pickle = encode_pickle(content, storages.persistent_id)
    root = PurePath(name).stem
    contents: dict[str, tuple[bytes, Storage]] = {f"{root}/data.pkl": (pickle, ())}
    for key in sorted(storages.tensors):
        contents[f"{root}/data/{key}"] = (b"", storages.tensors[key])
    contents[f"{root}/version"] = (VERSION_RECORD, ())
    sizes = [
        (record, len(literal) + sum(tensor.num_bytes for tensor in tensors))
        for record, (literal, tensors) in contents.items()
    ]
    entries, num_bytes = lay_out(sizes)
    records = tuple(
        Record(entry.name, data_offset(entry), *contents[entry.name]) for entry in entries
    )
    return PlannedFile(name, "torch-zip", records, num_bytes)
