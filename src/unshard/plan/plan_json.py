"""A plan as JSON and back: for dry runs, for other machines, and for resuming when the
source files are partly gone.

A dataclass is the list of its fields in order. Paths and target tensors, which come many times,
are numbers in the lists `paths` and `tensors`; dtypes are names, literals base64.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from unshard.dtypes import BY_NAME, DType
from unshard.plan.copy_plan import CopyPlan, Omission, PlannedFile, TargetTensor
from unshard.tensors import ByteRange, LogicalTensor, Shape, StoredRecord

Json = dict[str, Any]
LOCATED = (ByteRange, StoredRecord)
"""What names a file."""


def plan_to_json(plan: CopyPlan) -> Json:
    """The whole plan as JSON values."""
    targets = list(plan.targets())
    pack = _Packer(targets)
    return {
        "source": plan.source,
        "target": plan.target,
        "sources": pack.all(plan.sources.values()),
        "tensors": [pack.fields(target) for target in targets],
        "files": pack.all(plan.files),
        "weights": sorted(plan.weights),
        "omissions": pack.all(plan.omissions),
        "stored": pack.all(plan.stored),
        "paths": list(pack.paths),
    }


def plan_from_json(content: Json) -> CopyPlan:
    """The plan that `plan_to_json` gave `content` for."""
    unpack = _Unpacker(content["paths"])
    unpack.targets = [unpack.fields(TargetTensor, each) for each in content["tensors"]]
    sources = unpack.value(tuple[LogicalTensor, ...], content["sources"])
    return CopyPlan(
        source=content["source"],
        target=content["target"],
        sources={tensor.name: tensor for tensor in sources},
        files=unpack.value(tuple[PlannedFile, ...], content["files"]),
        weights=frozenset(content["weights"]),
        omissions=unpack.value(tuple[Omission, ...], content["omissions"]),
        stored=unpack.value(tuple[StoredRecord, ...], content["stored"]),
    )


def plan_digest(plan: CopyPlan) -> str:
    """SHA-256 of the plan's canonical JSON: equal plans write equal bytes. How the user spelled
    the source (a folder or a pattern, relative or absolute) makes no difference."""
    content = plan_to_json(plan) | {"source": None}
    content["paths"] = [str(Path(path).resolve()) for path in content["paths"]]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class _Packer:
    def __init__(self, targets: Sequence[TargetTensor]) -> None:
        self.paths: dict[str, int] = {}
        self._numbers = {id(target): number for number, target in enumerate(targets)}

    def value(self, value: Any) -> Any:
        kind = type(value)
        if kind is int or kind is str:
            return value
        if kind is tuple:
            return [self.value(each) for each in value]
        if kind is TargetTensor:
            return self._numbers[id(value)]
        if kind is DType:
            return value.name
        return base64.b64encode(value).decode() if kind is bytes else self.fields(value)

    def all(self, values: Iterable[Any]) -> list[Any]:
        return [self.fields(value) for value in values]

    def fields(self, value: Any) -> list[Any]:
        packed = [self.value(getattr(value, name)) for name in _kinds(value.__class__)]
        if type(value) in LOCATED:  # whose first field is the path
            packed[0] = self.paths.setdefault(value.path, len(self.paths))
        return packed


class _Unpacker:
    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
        self.targets: list[TargetTensor] = []

    def value(self, kind: Any, packed: Any) -> Any:
        """What `packed` says of a value of type `kind`."""
        if kind is TargetTensor:
            return self.targets[packed]
        if kind is DType:
            return BY_NAME[packed]
        if kind is bytes:
            return base64.b64decode(packed)
        if kind == Shape:
            return tuple(packed)
        if get_origin(kind) is tuple:
            return tuple(self.value(get_args(kind)[0], each) for each in packed)
        return self.fields(kind, packed) if isinstance(packed, list) else packed

    def fields(self, kind: Any, packed: Sequence[Any]) -> Any:
        if kind in LOCATED:
            return kind(self._paths[packed[0]], *packed[1:])
        return kind(*map(self.value, _kinds(kind).values(), packed))


@cache
def _kinds(kind: Any) -> dict[str, Any]:
    """The types of a dataclass's fields by name."""
    hints = get_type_hints(kind)
    return {each.name: hints[each.name] for each in fields(kind)}
