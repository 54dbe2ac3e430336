"""Reading a checkpoint by its index alone, and damaging one."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unshard.formats.pickle_encode import encode_pickle
from unshard.formats.unpickle import decode_pickle
from unshard.index.checkpoint import Checkpoint
from unshard.tensors import LogicalTensor, TensorRef
from unshard.testing.tiny_model import Array

ReadModel = Callable[[Checkpoint], dict[str, Array]]


@pytest.fixture
def read_model() -> ReadModel:
    """Every tensor of a checkpoint, its chunks covering it exactly once, its replicas equal."""
    return lambda checkpoint: {name: whole(each) for name, each in checkpoint.index.items()}


@pytest.fixture
def read_tensor() -> Callable[[LogicalTensor], Array]:
    """A whole tensor from the bytes that its chunks mean."""
    return whole


def whole(tensor: LogicalTensor) -> Array:
    values = np.empty(tensor.shape, tensor.dtype.numpy)
    times = np.zeros(tensor.shape, int)
    for chunk in tensor.chunks:
        box = tuple(
            slice(at, at + size) for at, size in zip(chunk.offsets, chunk.sizes, strict=True)
        )
        values[box] = stored(chunk.ref)
        times[box] += 1
    assert (times == 1).all(), tensor.name
    for replica in tensor.replicas:
        assert np.array_equal(stored(replica), values), tensor.name
    return values


def stored(ref: TensorRef) -> Array:
    raw = b""
    for piece in ref.ranges:
        with open(piece.path, "rb") as file:  # noqa: PTH123
            file.seek(piece.offset)
            raw += file.read(piece.length)
    assert len(raw) == math.prod(ref.shape) * ref.dtype.itemsize_bytes
    return np.frombuffer(raw, ref.dtype.numpy).reshape(ref.shape)


Edit = Callable[[Path, Callable[[dict[str, Any]], None]], None]


@pytest.fixture
def edit() -> Edit:
    """Rewrites the pickle of an archive after `change` has changed what it holds."""
    return rewrite


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    [pickle] = [name for name in members if name.endswith("data.pkl")]
    content = decode_pickle(members[pickle], str(path))
    change(content)
    members[pickle] = encode_pickle(content)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
