"""A `torch.save` archive as a planned file: its pickle, its storages, their offsets.

As in `torch.save`, storages get their keys in the order in which pickling meets them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

from unshard.dtypes import DType
from unshard.errors import CheckpointError
from unshard.formats.pickle_encode import encode_pickle
from unshard.formats.records import Global, PersistentId, PickledObject
from unshard.formats.torch_release import TORCH_1_13, TorchRelease
from unshard.formats.torch_zip_layout import data_offset, lay_out
from unshard.plan.copy_plan import PlannedFile, Record, Span, TargetTensor, whole_span
from unshard.plan.small_files import copied
from unshard.tensors import LogicalTensor, Shape

STORAGE, CPU = "storage", "cpu"
"""The words with which torch describes a storage: each is one object wherever it is used."""


@dataclass(frozen=True, slots=True, eq=False)
class TargetStorage:
    """A storage of the output, before it has a key: literal bytes, spans end to end, zeros."""

    dtype: DType
    spans: tuple[Span, ...]
    fill_elements: int = 0
    literal: bytes = b""

    @property
    def num_elements(self) -> int:
        num_bytes = len(self.literal) + sum(span.stop - span.start for span in self.spans)
        return num_bytes // self.dtype.itemsize_bytes + self.fill_elements


def storage_of(tensors: Sequence[TargetTensor]) -> TargetStorage:
    """A storage that holds whole tensors of one dtype, end to end."""
    return TargetStorage(tensors[0].dtype, tuple(whole_span(tensor) for tensor in tensors))


def views_of(tensors: Sequence[TargetTensor]) -> Iterator[tuple[str, PickledObject]]:
    """Name and pickled view of each tensor, in order: of one storage where they share a dtype,
    else of one each."""
    alike = len({tensor.dtype for tensor in tensors}) == 1
    for group in [tensors] if alike else [[tensor] for tensor in tensors]:
        storage, offset = storage_of(group), 0
        for tensor in group:
            yield tensor.name, pickled_tensor(storage, offset, tensor.shape)
            offset += tensor.num_elements


def pickled_tensor(storage: TargetStorage, offset: int, shape: Shape) -> PickledObject:
    """What pickles as a row-major tensor that begins at element `offset` of `storage`."""
    strides = tuple(math.prod(max(n, 1) for n in shape[dim + 1 :]) for dim in range(len(shape)))
    hooks = PickledObject(Global("collections", "OrderedDict"), ())
    rebuild = Global("torch._utils", "_rebuild_tensor_v2")
    return PickledObject(rebuild, (PersistentId(storage), offset, shape, strides, False, hooks))


class _Storages:
    """Gives keys to storages as pickling meets them."""

    def __init__(self, name: str, carried: Mapping[str, LogicalTensor]) -> None:
        self._name = name
        self._carried = carried
        self._keys: dict[int | str, str] = {}
        self.contents: dict[str, TargetStorage] = {}

    def persistent_id(self, record: PersistentId) -> tuple[object, ...]:
        """What the output's pickle says of a storage: planned here, or carried along."""
        value = record.value
        if isinstance(value, TargetStorage):
            kind = Global("torch", value.dtype.torch_storage)
            return (STORAGE, kind, self._key(id(value), value), CPU, value.num_elements)
        match value:
            case ("storage", Global() as kind, str(old), str(), int(count)) if old in self._carried:
                key = self._key(old, storage_of([copied(self._carried[old])]))
                return (STORAGE, kind, key, CPU, count)
        raise CheckpointError(f"{self._name}: its metadata refers to a storage that is not there")

    def _key(self, identity: int | str, storage: TargetStorage) -> str:
        key = self._keys.setdefault(identity, str(len(self._keys)))
        self.contents.setdefault(key, storage)
        return key


def torch_archive(
    name: str,
    content: object,
    carried: Mapping[str, LogicalTensor],
    release: TorchRelease = TORCH_1_13,
) -> PlannedFile:
    """The planned file `name` that holds `content`, with its records as `release` orders them.

    `content` is plain data and inert records, with tensors of `pickled_tensor` and tensors
    whose storages are in `carried`, by their keys in the source file.

    Raises:
        CheckpointError: a tensor in `content` has no storage.
    """
    storages = _Storages(name, carried)
    pickle = encode_pickle(content, storages.persistent_id)
    root = PurePath(name).stem
    records = [
        Record(f"{root}/data.pkl", 0, pickle),
        *(Record(f"{root}/{each}", 0, raw) for each, raw in release.before_storages.items()),
        *(
            _storage_record(f"{root}/data/{key}", storages.contents[key])
            for key in release.ordered(storages.contents)
        ),
        *(Record(f"{root}/{each}", 0, raw) for each, raw in release.after_storages.items()),
    ]
    entries, num_bytes = lay_out([(record.name, record.num_bytes) for record in records])
    placed = tuple(
        replace(record, offset=data_offset(entry))
        for record, entry in zip(records, entries, strict=True)
    )
    return PlannedFile(name, "torch-zip", placed, num_bytes)


def _storage_record(name: str, storage: TargetStorage) -> Record:
    fill_bytes = storage.fill_elements * storage.dtype.itemsize_bytes
    return Record(name, 0, storage.literal, storage.spans, fill_bytes)
