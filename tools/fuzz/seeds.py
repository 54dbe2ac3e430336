"""Sound inputs of every kind, from which fuzzing starts."""

from __future__ import annotations

import argparse
import hashlib
import pickle
import tempfile
import zipfile
from collections import OrderedDict
from pathlib import Path

from unshard.dtypes import FLOAT16, FLOAT32
from unshard.formats.safetensors import safetensors_header
from unshard.testing.tiny_checkpoint import write_tiny_checkpoint

VALUES = (
    {"a": [1, 2**40, -1, 1.5, None, True], "b": ("x", ("x",), (1, 2, 3, 4))},
    OrderedDict(a=b"bytes", b={1, 2}, c=frozenset({"x"})),
    argparse.Namespace(lr=[1e-4], name="é", nested=argparse.Namespace(x=1)),
    {str(number): number for number in range(1001)},
)


def write_seeds(target: str, folder: Path) -> None:
    """Writes them into `folder`, each named by its digest."""
    seeds = {"pickle": pickles, "archive": archives, "safetensors": headers, "checkpoint": parts}
    for seed in seeds[target]():
        (folder / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)


def pickles() -> list[bytes]:
    written = [pickle.dumps(value, protocol) for value in VALUES for protocol in range(2, 6)]
    return written + parts()


def archives() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        write_tiny_checkpoint(folder, tp_size=1, fsdp_size=2)
        return [path.read_bytes() for path in sorted(Path(folder).iterdir())]


def parts() -> list[bytes]:
    """The pickles of the same files."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        write_tiny_checkpoint(folder, tp_size=1, fsdp_size=2)
        for path in sorted(Path(folder).iterdir()):
            with zipfile.ZipFile(path) as archive:
                found.append(archive.read(f"{path.stem}/data.pkl"))
    return found


def headers() -> list[bytes]:
    tensors = [("a", FLOAT16, (2, 3)), ("model.decoder.x", FLOAT32, ()), ("c", FLOAT32, (0, 4))]
    return [
        safetensors_header(tensors, {"format": "pt"}) + bytes(16),
        safetensors_header([], {}),
    ]
