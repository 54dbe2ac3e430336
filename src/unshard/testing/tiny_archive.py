"""Writing what `torch.save` would write, with numpy and zipfile alone."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from unshard.dtypes import DType
from unshard.formats.pickle_encode import encode_pickle
from unshard.formats.records import Global, PersistentId, PickledObject
from unshard.testing.tiny_model import Array


class TinyArchive:
    """Collects storages; `write` puts them and a pickled object into an archive."""

    def __init__(self) -> None:
        self._storages: list[Array] = []

    def storage(self, values: Array, dtype: DType) -> PersistentId:
        """A storage of its own for `values`."""
        self._storages.append(values)
        key = str(len(self._storages) - 1)
        kind = Global("torch", dtype.torch_storage)
        return PersistentId(("storage", kind, key, "cpu", values.size))

    def tensor(self, values: Array, dtype: DType) -> PickledObject:
        """A tensor that fills a storage of its own."""
        return view(self.storage(values, dtype), 0, values.shape)

    def write(self, path: Path, content: Any) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"{path.stem}/data.pkl", encode_pickle(content))
            for key, storage in enumerate(self._storages):
                raw = np.ascontiguousarray(storage).tobytes()
                archive.writestr(f"{path.stem}/data/{key}", raw)
            archive.writestr(f"{path.stem}/version", "3\n")


def view(storage: PersistentId, offset: int, shape: tuple[int, ...]) -> PickledObject:
    """A row-major tensor of `shape` that begins at element `offset` of `storage`."""
    strides = tuple(math.prod(shape[dim + 1 :]) for dim in range(len(shape)))
    hooks = PickledObject(Global("collections", "OrderedDict"), ())
    args = (storage, offset, shape, strides, False, hooks)
    return PickledObject(Global("torch._utils", "_rebuild_tensor_v2"), args)
