"""A plan as JSON and back: for dry runs, for other machines, and for resuming when the
source files are partly gone."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unshard.dtypes import BY_NAME
from unshard.plan.boxes import Box
from unshard.plan.copy_plan import (
    CopyPlan,
    Omission,
    PlannedFile,
    Record,
    Region,
    Span,
    TargetTensor,
)
from unshard.tensors import ByteRange, Chunk, Cut, LogicalTensor, StoredRecord, TensorRef

Json = dict[str, Any]


def plan_to_json(plan: CopyPlan) -> Json:
    """The whole plan as JSON values: paths and target tensors by number, literals in base64."""
    paths: dict[str, int] = {}
    targets = list(plan.targets())
    numbers = {id(target): number for number, target in enumerate(targets)}
    content = {
        "source": plan.source,
        "target": plan.target,
        "sources": [_tensor_json(tensor, paths) for tensor in plan.sources.values()],
        "tensors": [_target_json(target) for target in targets],
        "files": [_file_json(file, numbers) for file in plan.files],
        "weights": sorted(plan.weights),
        "omissions": [[each.name, each.reason] for each in plan.omissions],
        "stored": [
            [
                paths.setdefault(each.path, len(paths)),
                each.name,
                each.offset,
                each.length,
                each.crc32,
            ]
            for each in plan.stored
        ],
    }
    return content | {"paths": list(paths)}


def plan_digest(plan: CopyPlan) -> str:
    """SHA-256 of the plan's canonical JSON: equal plans write equal bytes. How the user spelled
    the source (a folder or a pattern, relative or absolute) makes no difference."""
    content = plan_to_json(plan) | {"source": None}
    content["paths"] = [str(Path(path).resolve()) for path in content["paths"]]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _tensor_json(tensor: LogicalTensor, paths: dict[str, int]) -> Json:
    return {
        "name": tensor.name,
        "dtype": tensor.dtype.name,
        "shape": tensor.shape,
        "chunks": [[chunk.offsets, _ref_json(chunk.ref, paths)] for chunk in tensor.chunks],
        "replicas": [_ref_json(replica, paths) for replica in tensor.replicas],
        "cut": [tensor.cut.dim, tensor.cut.count],
    }


def _ref_json(ref: TensorRef, paths: dict[str, int]) -> list[Any]:
    ranges = [
        [paths.setdefault(piece.path, len(paths)), piece.offset, piece.length]
        for piece in ref.ranges
    ]
    return [ref.name, ref.dtype.name, ref.shape, ranges]


def _target_json(target: TargetTensor) -> Json:
    return {
        "name": target.name,
        "dtype": target.dtype.name,
        "shape": target.shape,
        "regions": [
            [region.source, region.box.offsets, region.box.sizes, region.at]
            for region in target.regions
        ],
    }


def _file_json(file: PlannedFile, numbers: Mapping[int, int]) -> Json:
    return {
        "name": file.name,
        "framing": file.framing,
        "num_bytes": file.num_bytes,
        "records": [
            {
                "name": record.name,
                "offset": record.offset,
                "literal": base64.b64encode(record.literal).decode(),
                "spans": [[numbers[id(s.tensor)], s.start, s.stop] for s in record.spans],
                "fill_bytes": record.fill_bytes,
            }
            for record in file.records
        ],
    }


def plan_from_json(content: Json) -> CopyPlan:
    """The plan that `plan_to_json` gave `content` for."""
    paths = content["paths"]
    targets = [_target(each) for each in content["tensors"]]
    sources = [_tensor(each, paths) for each in content["sources"]]
    return CopyPlan(
        source=content["source"],
        target=content["target"],
        sources={tensor.name: tensor for tensor in sources},
        files=tuple(_file(each, targets) for each in content["files"]),
        weights=frozenset(content["weights"]),
        omissions=tuple(Omission(*each) for each in content["omissions"]),
        stored=tuple(StoredRecord(paths[each[0]], *each[1:]) for each in content["stored"]),
    )


def _tensor(content: Json, paths: Sequence[str]) -> LogicalTensor:
    return LogicalTensor(
        name=content["name"],
        dtype=BY_NAME[content["dtype"]],
        shape=tuple(content["shape"]),
        chunks=tuple(Chunk(tuple(at), _ref(ref, paths)) for at, ref in content["chunks"]),
        replicas=tuple(_ref(ref, paths) for ref in content["replicas"]),
        cut=Cut(*content["cut"]),
    )


def _ref(content: Sequence[Any], paths: Sequence[str]) -> TensorRef:
    name, dtype, shape, ranges = content
    pieces = tuple(ByteRange(paths[path], offset, length) for path, offset, length in ranges)
    return TensorRef(name, BY_NAME[dtype], tuple(shape), pieces)


def _target(content: Json) -> TargetTensor:
    regions = tuple(
        Region(source, Box(tuple(offsets), tuple(sizes)), tuple(at))
        for source, offsets, sizes, at in content["regions"]
    )
    return TargetTensor(
        content["name"], BY_NAME[content["dtype"]], tuple(content["shape"]), regions
    )


def _file(content: Json, targets: Sequence[TargetTensor]) -> PlannedFile:
    records = tuple(
        Record(
            name=each["name"],
            offset=each["offset"],
            literal=base64.b64decode(each["literal"]),
            spans=tuple(
                Span(targets[number], start, stop) for number, start, stop in each["spans"]
            ),
            fill_bytes=each["fill_bytes"],
        )
        for each in content["records"]
    )
    return PlannedFile(content["name"], content["framing"], records, content["num_bytes"])
