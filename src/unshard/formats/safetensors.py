"""Reading and writing the header of a safetensors file.

Format: u64 header length, a JSON object name -> {dtype, shape, data_offsets}, then the
tensors without gaps (github.com/huggingface/safetensors, format section).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from unshard.dtypes import BY_SAFETENSORS, DType
from unshard.errors import FormatError
from unshard.formats.records import as_shape
from unshard.tensors import ByteRange, Shape, TensorRef

MAX_HEADER_BYTES = 100_000_000
"""The limit that the reference reader sets."""


def read_safetensors(path: str | Path) -> dict[str, TensorRef]:
    """Every tensor of the file by name, in order of its bytes. Reads the header only.

    Raises:
        FormatError: the header is malformed, or its tensors do not tile the data exactly.
    """
    path = os.fspath(path)
    with Path(path).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
            raise FormatError(path, "is not a safetensors file, or is truncated")
        raw = file.read(length)
    header = _parse(path, raw)
    header.pop("__metadata__", None)
    data_offset = 8 + length
    refs = [_tensor(path, name, entry, data_offset) for name, entry in header.items()]
    refs.sort(key=lambda ref: (ref.ranges[0].offset, ref.ranges[0].length))
    end = data_offset
    for ref in refs:
        if ref.ranges[0].offset != end:
            raise FormatError(path, f"tensor {ref.name}: leaves a gap or overlaps another one")
        end += ref.num_bytes
    if end != size:
        raise FormatError(path, f"has {size} bytes, its header describes {end}")
    return {ref.name: ref for ref in refs}


def _parse(path: str, raw: bytes) -> dict[str, Any]:
    def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries = dict(pairs)
        if len(entries) != len(pairs):
            raise FormatError(path, "header names a tensor twice")
        return entries

    try:
        header = json.loads(raw, object_pairs_hook=refuse_duplicates)
    except (ValueError, RecursionError):
        raise FormatError(path, "header is not valid JSON") from None
    if not isinstance(header, dict):
        raise FormatError(path, "header is not a JSON object")
    return header


def _tensor(path: str, name: str, entry: object, data_offset: int) -> TensorRef:
    match entry:
        case {"dtype": str(kind), "shape": list(sizes), "data_offsets": [int(begin), int(end)]}:
            dtype, shape = BY_SAFETENSORS.get(kind), as_shape(sizes)
        case _:
            raise FormatError(path, f"tensor {name}: its header entry is malformed")
    if dtype is None:
        raise FormatError(path, f"tensor {name}: unknown dtype {kind}")
    if shape is None or begin < 0 or end - begin != math.prod(shape) * dtype.itemsize_bytes:
        raise FormatError(path, f"tensor {name}: shape and data_offsets disagree")
    return TensorRef(name, dtype, shape, (ByteRange(path, data_offset + begin, end - begin),))


def safetensors_header(
    tensors: Iterable[tuple[str, DType, Shape]], metadata: Mapping[str, str]
) -> bytes:
    """The bytes before the data, padded with spaces so that the data starts at 8 bytes."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, dtype, shape in tensors:
        end = offset + math.prod(shape) * dtype.itemsize_bytes
        header[name] = {
            "dtype": dtype.safetensors,
            "shape": list(shape),
            "data_offsets": [offset, end],
        }
        offset = end
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw
