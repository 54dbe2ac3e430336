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

    `like` is another rank's: where both say the same, this shares its objects.

    Raises:
        CheckpointError: it is malformed, or names a tensor twice.
    """
    metadata = as_mapping((as_mapping(file.content) or {}).get("shard_metadata"))
    if metadata is None:
        return None
    known = iter(like.flats if like else ())
    flats, paddings = [], []
    for unit in _units(file, metadata):
        for own_name, said in (as_mapping(unit.get("params")) or {}).items():
            entry = _Entry(file.path, unit.get("fsdp_path"), own_name, as_mapping(said) or {})
            flats.append(entry.flat_parameter(next(known, None)))
            paddings.append(entry.padding())
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


@dataclass(frozen=True, slots=True)
class _Entry:
    """One flat parameter's entry, unchecked."""

    file: str
    path: Any
    own_name: Any
    said: Mapping[Any, Any]

    def flat_parameter(self, known: FlatParameter | None) -> FlatParameter:
        """The entry, checked; `known` itself where it says the same.

        Comparing with what is known to be strings and numbers is safe and fast; checking
        each of some thousand names in each of 992 files is not.
        """
        names, shapes = self.said.get("names"), self.said.get("shapes")
        if not isinstance(names, list | tuple) or not isinstance(shapes, list | tuple):
            raise self.malformed()
        if (
            known is not None
            and (self.path, self.own_name) == (known.path, known.own_name)
            and tuple(names) == known.own_names
            and tuple(shapes) == known.shapes
        ):
            return known
        sizes = tuple(size for size in map(as_shape, shapes) if size is not None)
        if not isinstance(self.path, str) or not isinstance(self.own_name, str):
            raise self.malformed()
        if len(names) != len(shapes) or not all(isinstance(name, str) for name in names):
            raise self.malformed()
        if len(sizes) != len(shapes):
            raise self.malformed()
        return FlatParameter(self.path, self.own_name, tuple(names), sizes)

    def padding(self) -> int:
        padding = self.said.get("padding", 0)
        if type(padding) is not int:
            raise self.malformed()
        return padding

    def malformed(self) -> CheckpointError:
        unit = self.path if isinstance(self.path, str) and self.path else "the root"
        return CheckpointError(f"{self.file}: shard_metadata of {unit} is malformed")
