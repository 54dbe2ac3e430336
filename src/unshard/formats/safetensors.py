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
from unshard.formats.regular_file import open_regular, read_exactly
from unshard.strict_json import MAX_JSON_BYTES, parse_json_object
from unshard.tensors import ByteRange, Shape, TensorRef

MAX_HEADER_BYTES = MAX_JSON_BYTES
"""More than 40,000 tensors in one file. The reference reader takes ten times as much; parsed,
that would be gigabytes."""
MAX_NAME_LENGTH = 1024


def read_safetensors(path: str | Path) -> dict[str, TensorRef]:
    """Every tensor of the file by name, in order of its bytes. Reads the header only.

    Raises:
        FormatError: the header is malformed, or its tensors do not tile the data exactly.
    """
    path = os.fspath(path)
    with open_regular(path) as descriptor:
        size = os.fstat(descriptor).st_size
        raw = _read_header(path, descriptor, size)
    if not raw.startswith(b"{"):
        raise FormatError(path, "header is not a JSON object")
    header, data_offset = parse_json_object(path, raw, "header"), 8 + len(raw)
    _check_metadata(path, header.pop("__metadata__", {}))
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


def _read_header(path: str, descriptor: int, size: int) -> bytes:
    if size < 8:
        raise FormatError(path, "is not a safetensors file, or is truncated")
    length = int.from_bytes(read_exactly(path, descriptor, 8, 0), "little")
    if length > size - 8:
        raise FormatError(path, "is not a safetensors file, or is truncated")
    if length > MAX_HEADER_BYTES:
        raise FormatError(path, f"its header of {length} bytes is far too large")
    return read_exactly(path, descriptor, length, 8)


def _check_metadata(path: str, metadata: object) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise FormatError(path, "header's __metadata__ is no map of strings")


def _tensor(path: str, name: str, entry: object, data_offset: int) -> TensorRef:
    if len(name) > MAX_NAME_LENGTH:
        raise FormatError(path, f"a tensor's name has {len(name)} characters")
    match entry:
        case {"dtype": str(kind), "shape": list(sizes), "data_offsets": [begin, end]} if (
            type(begin) is int and type(end) is int
        ):
            dtype, shape = BY_SAFETENSORS.get(kind), as_shape(sizes)
        case _:
            raise FormatError(path, f"tensor {name}: its header entry is malformed")
    if dtype is None:
        raise FormatError(path, f"tensor {name}: unknown dtype {kind[:80]}")
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
