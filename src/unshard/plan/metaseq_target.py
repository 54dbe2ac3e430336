"""The consolidated metaseq layout: `reshard-model_part-{tp_rank}.pt`.

With as many parts as the source, a file holds what metaseq's `reshard_fsdp` writes: one
storage per FSDP unit, tensors as views of it. With another number, what `reshard_mp`
writes: one storage per tensor, six top-level keys.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from unshard.architectures.opt import FUSED_ORDER, tensor_rules, weight_names
from unshard.errors import UsageError
from unshard.formats.records import PickledObject, as_mapping
from unshard.index.checkpoint import Checkpoint
from unshard.index.companions import Companion
from unshard.index.tensor_parallel import FUSED
from unshard.placement import local_box
from unshard.plan.boxes import Box
from unshard.plan.copy_plan import CopyPlan, PlannedFile, Region, TargetTensor
from unshard.plan.small_files import copied_companions, literal_file, stored_bytes
from unshard.plan.torch_archive import TargetStorage, views_of, storage_of, torch_archive
from unshard.releases import dict_txt
from unshard.tensors import LogicalTensor, Shape

COMPANION_NAMES: Mapping[Companion, str] = {"vocab": "gpt2-vocab.json", "merges": "gpt2-merges.txt"}
RESHARD_MP_KEYS = ("model", "cfg", "extra_state", "optimizer_history", "args", "shard_metadata")


def plan_metaseq(checkpoint: Checkpoint, tp_size: int | None = None) -> CopyPlan:
    """The plan that writes `checkpoint` as `tp_size` consolidated parts (default: as many as
    it has).

    Raises:
        UsageError: the source has no metaseq metadata to carry, or the sizes do not divide.
        CheckpointError: a sharded dimension does not divide by `tp_size`.
    """
    if not checkpoint.metadata:
        raise UsageError(
            f"{checkpoint.source}: writing metaseq files from {checkpoint.layout.kind} is not "
            "supported yet",
            hint="start from the raw or consolidated metaseq files",
        )
    same = tp_size is None or tp_size == checkpoint.layout.tp_size
    count = checkpoint.layout.tp_size if tp_size is None else tp_size
    if count < 1:
        raise UsageError(f"the number of tensor-parallel parts must be positive, not {count}")
    carried = [_carried(checkpoint, rank if same else 0) for rank in range(count)]
    parts = [_part(checkpoint, rank, count, same, carried[rank]) for rank in range(count)]
    companions, copies = copied_companions(checkpoint, COMPANION_NAMES)
    vocabulary = literal_file("dict.txt", dict_txt(checkpoint.config.vocab_size))
    others = (*companions, *(source for part in carried for source in part.values()))
    sources = {
        name: checkpoint.index[name]
        for unit in checkpoint.units
        for stored in unit
        for name in _parts_of(stored)
    }
    files = (*parts, *copies, vocabulary)
    used = {
        region.source
        for file in parts
        for record in file.records
        for span in record.spans
        for region in span.tensor.regions
    }
    return CopyPlan(
        checkpoint.source,
        f"{count} consolidated metaseq parts",
        sources
        | {source.name: source for source in others if source.name in used or source in companions},
        files,
        weights=frozenset(weight_names(sources)),
        stored=checkpoint.stored,
    )


def _carried(checkpoint: Checkpoint, tp_rank: int) -> dict[str, LogicalTensor]:
    """The storages of a part's first file that its metadata may use, by key."""
    return {
        key: stored_bytes(f"part {tp_rank} storage {key}", ref.ranges[0])
        for key, ref in checkpoint.metadata[tp_rank].storages.items()
    }


def _part(
    checkpoint: Checkpoint,
    tp_rank: int,
    tp_size: int,
    same: bool,
    carried: Mapping[str, LogicalTensor],
) -> PlannedFile:
    units = [
        [_local(checkpoint, name, tp_rank, tp_size) for name in unit] for unit in checkpoint.units
    ]
    if same:
        metadata = checkpoint.metadata[tp_rank]
        storages = [storage for unit in units for storage in _storages(unit)]
        content = _reshard_fsdp_content(metadata.entries, storages)
    else:
        storages = [storage_of([tensor]) for unit in units for tensor in unit]
        content = _reshard_mp_content(checkpoint.metadata[0].entries, storages, tp_size)
    return torch_archive(f"reshard-model_part-{tp_rank}.pt", content, carried)


def _storages(unit: list[TargetTensor]) -> list[TargetStorage]:
    """One storage for the unit, or one per tensor where they differ in dtype."""
    if len({tensor.dtype for tensor in unit}) == 1:
        return [storage_of(unit)]
    return [storage_of([tensor]) for tensor in unit]


def _local(checkpoint: Checkpoint, name: str, tp_rank: int, tp_size: int) -> TargetTensor:
    """The stored tensor `name` (perhaps a fused one) of one rank."""
    rules, regions, rows = tensor_rules(checkpoint.config), [], 0
    shape: Shape = ()
    for part in _parts_of(name):
        rule = rules[part]
        offsets, sizes = local_box(part, rule.shape, rule.placement, tp_rank, tp_size)
        at = (rows, *(0 for _ in sizes[1:]))
        regions.append(Region(part, Box(offsets, sizes), at))
        rows += sizes[0]
        shape = (rows, *sizes[1:])
    dtype = checkpoint.index[regions[0].source].dtype
    return TargetTensor(name, dtype, shape, tuple(regions))


def _parts_of(name: str) -> Iterator[str]:
    if f".{FUSED}." not in name:
        yield name
        return
    for projection in FUSED_ORDER:
        yield name.replace(FUSED, projection)


def _model(storages: Sequence[TargetStorage]) -> dict[str, Any]:
    return {name: view for each in storages for name, view in views_of(each)}


def _reshard_fsdp_content(
    metadata: Mapping[str, Any], storages: Sequence[TargetStorage]
) -> dict[str, Any]:
    first = {"model": _model(storages), "shard_metadata": metadata.get("shard_metadata")}
    if "shard_metadata" not in metadata:
        del first["shard_metadata"]
    skipped = {*first, "last_optimizer_state"}
    return first | {key: value for key, value in metadata.items() if key not in skipped}


def _reshard_mp_content(
    metadata: Mapping[str, Any], storages: Sequence[TargetStorage], tp_size: int
) -> dict[str, Any]:
    kept = copy.deepcopy(dict(metadata))
    arguments = as_mapping((as_mapping(kept.get("cfg")) or {}).get("model"))
    if isinstance(arguments, dict) and "model_parallel_size" in arguments:
        node = arguments["model_parallel_size"]
        if isinstance(node, PickledObject):
            node.state["_val"] = tp_size
        else:
            arguments["model_parallel_size"] = tp_size
    model = _model(storages)
    return {key: model if key == "model" else kept.get(key) for key in RESHARD_MP_KEYS}
