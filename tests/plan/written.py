"""What a written archive holds, by zipfile and numpy: every tensor as its shape and its values."""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unshard.dtypes import BY_TORCH_STORAGE
from unshard.formats.records import PickledObject
from unshard.formats.unpickle import decode_pickle


@dataclass(frozen=True)
class Tensor:
    """Which storage it is a view of, and from where, is no part of what it is."""

    dtype: str
    shape: tuple[int, ...]
    values: bytes = field(repr=False)


def read(path: Path) -> Any:
    """The content of an archive: dicts as lists of pairs, whose order counts."""
    return _plain(*opened_archive(path))


def storages_of(path: Path) -> list[list[str]]:
    """The names in `model` whose tensors share a storage, storage by storage."""
    content, _ = opened_archive(path)
    shared: dict[str, list[str]] = {}
    for name, tensor in content["model"].items():
        shared.setdefault(tensor.args[0].value[2], []).append(name)
    return list(shared.values())


def opened_archive(path: Path) -> tuple[Any, dict[str, bytes]]:
    """What the pickle says, and the members by name without the archive's own in front."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        members = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    return decode_pickle(members["data.pkl"], str(path)), members


def _plain(value: Any, members: dict[str, bytes]) -> Any:
    match value:
        case dict():
            return [(key, _plain(each, members)) for key, each in value.items()]
        case list() | tuple():
            return [_plain(each, members) for each in value]
        case PickledObject() if value.is_call_of("torch", "Size"):
            return list(value.args[0])
        case PickledObject() if value.is_call_of("torch._utils", "_rebuild_tensor_v2"):
            return _tensor(value.args, members)
        case PickledObject():
            parts = (value.args, value.state, value.entries, value.items)
            return (str(value.constructor), *(_plain(part, members) for part in parts))
    return value


def _tensor(said: Any, members: dict[str, bytes]) -> Tensor:
    storage, offset, shape, strides, _, _ = said
    _, kind, key, _, count = storage.value
    dtype, raw = BY_TORCH_STORAGE[kind.name], members[f"data/{key}"]
    assert len(raw) == count * dtype.itemsize_bytes, "a storage is as long as it says"
    assert strides == tuple(math.prod(shape[dim + 1 :]) for dim in range(len(shape)))
    values = np.frombuffer(raw, dtype.numpy)[offset : offset + math.prod(shape)]
    assert values.size == math.prod(shape), "a view lies within its storage"
    return Tensor(dtype.name, shape, values.tobytes())
