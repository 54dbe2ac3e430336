"""`shard_metadata`: which tensors FSDP laid end to end in which flat parameter.

Format: `param_metadata`, one entry per FSDP unit in the order of the state dict, each with
`fsdp_path`, `params` (flat parameter -> names, shapes, numels, padding) and
`shared_param_info` (fairscale's `local_metadata_dict`). Names are relative to `fsdp_path`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from unshard.errors import CheckpointError
from unshard.formats.records import as_mapping, as_shape
from unshard.formats.torch_zip import TorchFile
from unshard.tensors import Shape

MAX_NAME_LENGTH = 1024
"""A longer one is no key of a state dict."""


@dataclass(frozen=True, slots=True)
class FlatParameter:
    """The tensors of one flat parameter, in order, with the shapes they have in one part."""

    path: str
    """The unit's place in the model; empty for the root."""
    own_name: str
    own_names: tuple[str, ...]
    """Names below `path`, as the files give them."""
    shapes: tuple[Shape, ...]

    @property
    def key(self) -> str:
        """Its name in the state dict."""
        return self._full(self.own_name)

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors' names in the model."""
        return tuple(self._full(name) for name in self.own_names)

    @property
    def num_elements(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes)

    def _full(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name


@dataclass(frozen=True, slots=True)
class ShardMetadata:
    """One rank's `shard_metadata`."""

    flats: tuple[FlatParameter, ...]
    paddings: tuple[int, ...]
    """Elements of zero fill at the end of this rank's slice, by flat parameter."""
    shared: frozenset[tuple[str, str]]
    """Names of one and the same parameter: (stored, not stored)."""


def read_shard_metadata(file: TorchFile, like: ShardMetadata | None = None) -> ShardMetadata | None:
    """The file's `shard_metadata`, or None when it has none.

    `like` is another rank's: what says the same becomes the same object.

    Raises:
        CheckpointError: it is malformed, or names a tensor twice.
    """
    metadata = as_mapping((as_mapping(file.content) or {}).get("shard_metadata"))
    if metadata is None:
        return None
    known = iter(like.flats if like else ())
    flats, paddings = [], []
    for unit in _units(file, metadata):
        path = unit.get("fsdp_path")
        for own_name, said in (as_mapping(unit.get("params")) or {}).items():
            entry = as_mapping(said) or {}
            flat = next(known, None)
            if flat is None or not _says(entry, path, own_name, flat):
                flat = _flat_parameter(file, path, own_name, entry)
            flats.append(flat)
            paddings.append(_padding(file, flat, entry))
    if like is not None and flats == list(like.flats):
        return ShardMetadata(like.flats, tuple(paddings), like.shared)
    _refuse_repeated(file, flats)
    return ShardMetadata(tuple(flats), tuple(paddings), frozenset(_shared(file, metadata)))


def _units(file: TorchFile, metadata: Mapping[Any, Any]) -> Iterator[Mapping[Any, Any]]:
    units = metadata.get("param_metadata", ())
    if not isinstance(units, list | tuple):
        raise CheckpointError(f"{file.path}: shard_metadata is malformed")
    for unit in units:
        yield as_mapping(unit) or {}


def _shared(file: TorchFile, metadata: Mapping[Any, Any]) -> Iterator[tuple[str, str]]:
    for unit in _units(file, metadata):
        pairs = unit.get("shared_param_info") or ()
        for pair in pairs if isinstance(pairs, list | tuple) else ():
            match pair:
                case [str(source), str(other)]:
                    yield source, other


def _refuse_repeated(file: TorchFile, flats: list[FlatParameter]) -> None:
    seen: set[str] = set()
    for flat in flats:
        for name in (flat.key, *flat.names):
            if name in seen:
                raise CheckpointError(f"{file.path}: shard_metadata names {name} twice")
            seen.add(name)


def _says(entry: Mapping[Any, Any], path: Any, own_name: Any, known: FlatParameter) -> bool:
    """Whether an entry, unchecked, says what is known already.

    Comparing with checked strings and numbers is safe and fast; checking each of a thousand
    names in each of 992 files is not.
    """
    names, shapes = entry.get("names"), entry.get("shapes")
    return (
        (path, own_name) == (known.path, known.own_name)
        and isinstance(names, list | tuple)
        and tuple(names) == known.own_names
        and isinstance(shapes, list | tuple)
        and tuple(shapes) == known.shapes
    )


def _flat_parameter(
    file: TorchFile, path: Any, own_name: Any, entry: Mapping[Any, Any]
) -> FlatParameter:
    names, shapes = entry.get("names"), entry.get("shapes")
    if not isinstance(path, str) or not isinstance(own_name, str):
        raise _malformed(file, path)
    if not isinstance(names, list | tuple) or not isinstance(shapes, list | tuple):
        raise _malformed(file, path)
    sizes = tuple(size for size in map(as_shape, shapes) if size is not None)
    if not len(names) == len(shapes) == len(sizes):
        raise _malformed(file, path)
    if not all(isinstance(name, str) and len(name) <= MAX_NAME_LENGTH for name in (path, *names)):
        raise _malformed(file, path)
    return FlatParameter(path, own_name, tuple(names), sizes)


def _padding(file: TorchFile, flat: FlatParameter, entry: Mapping[Any, Any]) -> int:
    padding = entry.get("padding", 0)
    if type(padding) is not int:
        raise _malformed(file, flat.path)
    return padding


def _malformed(file: TorchFile, path: Any) -> CheckpointError:
    unit = path[:MAX_NAME_LENGTH] if isinstance(path, str) and path else "the root"
    return CheckpointError(f"{file.path}: shard_metadata of {unit} is malformed")
