"""Reading a `torch.save` archive: tensors as references to bytes, the rest as records.

Format: a zip of stored members ROOT/data.pkl, ROOT/data/KEY and a few small ones. The
pickle names each tensor's storage by KEY; the storage is raw little-endian elements.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unshard.dtypes import BY_TORCH_STORAGE, UINT8, DType
from unshard.errors import FormatError
from unshard.formats.pickle_prototype import Prototypes
from unshard.formats.records import Global, PersistentId, PickledObject, as_mapping, as_shape
from unshard.formats.regular_file import open_regular, read_exactly
from unshard.formats.zip_directory import Member, zip_members
from unshard.tensors import ByteRange, Shape, StoredRecord, TensorRef

MAX_PICKLE_BYTES = 48 << 20
"""A trainer's state can hold a cache of one number per document; weights are not in here."""
MAX_TENSORS = 30_000
TENSOR_CALLS = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3")
PARAMETER_CALLS = ("_rebuild_parameter", "_rebuild_parameter_with_state")


@dataclass(frozen=True)
class TorchFile:
    """One opened archive: its pickled object and where its storages lie."""

    path: str
    root: str
    """Folder name inside the archive: the stem of the file it was first written as."""
    content: Any
    storages: dict[str, Member]


def read_torch_file(path: str | Path) -> TorchFile:
    """Opens the archive at `path`, reading its directory and its pickle only.

    Raises:
        FormatError: it is no torch archive, or breaks a rule of the format.
    """
    return _open(os.fspath(path), Prototypes())


def read_torch_files(paths: Iterable[str | Path]) -> Iterator[TorchFile]:
    """Opens one archive after the other; the contents of similar ones share what is equal.

    The files of a checkpoint hold nearly the same pickle, so this takes a fraction of the
    time and memory of opening each by itself. Contents must not be changed.

    Raises:
        FormatError: as `read_torch_file`.
    """
    prototypes = Prototypes()
    for path in paths:
        yield _open(os.fspath(path), prototypes)


def _open(path: str, prototypes: Prototypes) -> TorchFile:
    with open_regular(path) as descriptor:
        members = zip_members(path, descriptor)
        root = _root(path, members)
        _refuse_big_endian(path, descriptor, members.get(f"{root}/byteorder"))
        pickle = _read_pickle(path, descriptor, members[f"{root}/data.pkl"])
    prefix = f"{root}/data/"
    storages = {
        name.removeprefix(prefix): member
        for name, member in members.items()
        if name.startswith(prefix)
    }
    return TorchFile(path, root, prototypes.decode(pickle, path), storages)


def _root(path: str, members: Mapping[str, Member]) -> str:
    roots = {name.split("/", 1)[0] for name in members}
    if len(roots) != 1 or f"{next(iter(roots))}/data.pkl" not in members:
        raise FormatError(path, "is a zip archive, but not one that torch.save wrote")
    return roots.pop()


def _refuse_big_endian(path: str, descriptor: int, order: Member | None) -> None:
    little = b"little"
    if order is None:
        return
    if order.length != len(little) or _read(path, descriptor, order) != little:
        raise FormatError(path, "holds big-endian tensors", hint="save it again on this machine")


def _read_pickle(path: str, descriptor: int, member: Member) -> bytes:
    if member.length > MAX_PICKLE_BYTES:
        raise FormatError(path, f"its pickle of {member.length} bytes is far too large")
    data = _read(path, descriptor, member)
    if zlib.crc32(data) != member.crc32:
        raise FormatError(path, "data.pkl is damaged (CRC-32 differs)", hint="download it again")
    return data


def _read(path: str, descriptor: int, member: Member) -> bytes:
    return read_exactly(path, descriptor, member.length, member.offset)


def storage_refs(file: TorchFile) -> dict[str, TensorRef]:
    """Each storage as raw bytes, by its key."""
    return {
        key: TensorRef(
            key, UINT8, (member.length,), (ByteRange(file.path, member.offset, member.length),)
        )
        for key, member in file.storages.items()
    }


def stored_records(file: TorchFile) -> Iterator[StoredRecord]:
    """Each storage as a record with the checksum that the archive's directory states."""
    for key, member in file.storages.items():
        name = f"{file.root}/data/{key}"
        yield StoredRecord(file.path, name, member.offset, member.length, member.crc32)


def tensors_of(file: TorchFile, state_dict: object, where: str) -> Iterator[TensorRef]:
    """Every tensor of the mapping `state_dict` (such as `content["model"]`), in its order.

    Raises:
        FormatError: an entry is not a row-major CPU tensor inside its storage.
    """
    entries = as_mapping(state_dict)
    if entries is None:
        raise FormatError(file.path, f"{where} is no dict of tensors")
    if len(entries) > MAX_TENSORS:
        raise FormatError(file.path, f"{where} has {len(entries)} entries, which is too many")
    for name, value in entries.items():
        if not isinstance(name, str):
            kind = type(name).__name__
            raise FormatError(file.path, f"{where} has a key that is no string but {kind}")
        ref = tensor_ref(file, name, value)
        if ref is None:
            raise FormatError(file.path, f"{where}[{name!r}] is no tensor")
        yield ref


def tensor_ref(file: TorchFile, name: str, value: object) -> TensorRef | None:
    """`value` as a tensor called `name`, or None when it is something else."""
    value = _unwrap(value)
    if not (isinstance(value, PickledObject) and value.is_call_of("torch._utils", *TENSOR_CALLS)):
        return None
    match value.args:
        case (PersistentId(), int(offset), size, stride, *_):
            storage, shape, strides = value.args[0].value, as_shape(size), as_shape(stride)
        case _:
            raise FormatError(file.path, f"tensor {name}: its record is malformed")
    if shape is None or strides is None or len(shape) != len(strides):
        raise FormatError(file.path, f"tensor {name}: its shape or stride is malformed")
    if not _is_row_major(shape, strides):
        raise FormatError(file.path, f"tensor {name}: stride {strides} is not row-major")
    dtype, member = _storage(file, name, storage)
    length = math.prod(shape) * dtype.itemsize_bytes
    start = offset * dtype.itemsize_bytes
    if offset < 0 or start + length > member.length:
        raise FormatError(file.path, f"tensor {name}: reaches past its storage")
    return TensorRef(name, dtype, shape, (ByteRange(file.path, member.offset + start, length),))


def _unwrap(value: object) -> object:
    """The plain tensor inside a pickled Parameter or a tensor that carries attributes."""
    for _ in range(2):
        if isinstance(value, PickledObject) and isinstance(value.args, tuple):
            if value.is_call_of("torch._utils", *PARAMETER_CALLS) and value.args:
                value = value.args[0]
            elif value.is_call_of("torch._tensor", "_rebuild_from_type_v2") and len(value.args) > 2:
                value = PickledObject(value.args[0], value.args[2])
    return value


def _is_row_major(shape: Shape, strides: Shape) -> bool:
    """Strides of dimensions of size 1 (and of empty tensors) have no meaning."""
    if 0 in shape:
        return True
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _storage(file: TorchFile, name: str, persistent: object) -> tuple[DType, Member]:
    match persistent:
        case ("storage", Global("torch" | "torch.storage", kind), str(key), str(), int(count)):
            dtype = BY_TORCH_STORAGE.get(kind)
        case _:
            raise FormatError(file.path, f"tensor {name}: its storage record is malformed")
    if dtype is None:
        raise FormatError(file.path, f"tensor {name}: unknown storage type {kind}")
    member = file.storages.get(key)
    if member is None:
        raise FormatError(file.path, f"tensor {name}: storage {key[:80]!r} is not in the archive")
    if member.length != count * dtype.itemsize_bytes:
        raise FormatError(
            file.path,
            f"tensor {name}: storage {key!r} has {member.length} bytes instead of "
            f"{count * dtype.itemsize_bytes}",
        )
    return dtype, member
