"""metaseq's layouts as targets: any number of tensor-parallel parts and FSDP shards.

Unflattened, a part is one file, `reshard-model_part-{tp_rank}.pt`, in which the tensors of a
unit are views of one storage, as metaseq's `reshard_fsdp` writes them. Flat, every FSDP rank
has a file that the trainer would load: `checkpoint_last-model_part-{tp_rank}-shard{fsdp_rank}.pt`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from unshard.architectures.opt import VERSION_BUFFER, weight_names
from unshard.dtypes import DType
from unshard.errors import UsageError
from unshard.index.checkpoint import Checkpoint, PartMetadata
from unshard.index.companions import Companion
from unshard.index.fused import logical_names
from unshard.index.optimizer import KEY as OPTIMIZER
from unshard.index.optimizer_state import OptimizerState
from unshard.plan.copy_plan import CopyPlan, Omission, PlannedFile, TargetTensor
from unshard.plan.local_tensors import common_dtype
from unshard.plan.metaseq_content import carried_entries, in_order, minimal_entries, shard_metadata
from unshard.plan.metaseq_model import LocalUnit, flat_models, unflattened_model, version_storage
from unshard.plan.metaseq_units import TensorParallel
from unshard.plan.optimizer_target import optimizer_states
from unshard.plan.small_files import (
    carried_storages,
    copied,
    copied_companions,
    literal_file,
    used_sources,
)
from unshard.plan.torch_archive import TargetStorage, storage_of, torch_archive
from unshard.releases import dict_txt
from unshard.tensors import LogicalTensor

COMPANION_NAMES: Mapping[Companion, str] = {"vocab": "gpt2-vocab.json", "merges": "gpt2-merges.txt"}


def plan_metaseq(
    checkpoint: Checkpoint,
    tp_size: int | None = None,
    *,
    fsdp_size: int = 1,
    flat: bool | None = None,
    dtype: DType | None = None,
    optimizer: OptimizerState | None = None,
) -> CopyPlan:
    """The plan that writes `checkpoint` as metaseq files.

    `tp_size` parts (default: as many as the source has) of `fsdp_size` FSDP shards each; `flat`
    parameters (default: where there are several shards) or tensors by name; weights cast to
    `dtype`; `optimizer` state, if given, as it is.

    Raises:
        UsageError: the options contradict each other, or the heads do not divide.
        CheckpointError: a dimension does not divide by the number of parts.
    """
    flat = fsdp_size > 1 if flat is None else flat
    if fsdp_size > 1 and not flat:
        raise UsageError(
            f"{fsdp_size} FSDP shards can hold flat parameters only",
            hint="leave out --unflattened, or --fsdp",
        )
    parallel = TensorParallel(
        checkpoint.config,
        checkpoint.layout.tp_size if tp_size is None else tp_size,
        checkpoint.layout.fused_qkv if checkpoint.metadata else checkpoint.config.pre_norm,
    )
    target = _Target(checkpoint, parallel, fsdp_size, flat, dtype, optimizer)
    parts = [file for rank in range(target.parallel.size) for file in target.part(rank)]
    companions, copies = copied_companions(checkpoint, COMPANION_NAMES)
    vocabulary = literal_file("dict.txt", dict_txt(checkpoint.config.vocab_size))
    files = (*parts, *copies, vocabulary)
    sources = target.sources | {source.name: source for source in companions}
    return CopyPlan(
        checkpoint.source,
        target.description,
        used_sources(files, sources),
        files,
        weights=frozenset(weight_names(checkpoint.index)),
        omissions=tuple(target.omissions()),
        stored=checkpoint.stored,
    )


@dataclass
class _Target:
    """The files while they are planned; `sources` grows with them."""

    checkpoint: Checkpoint
    parallel: TensorParallel
    fsdp_size: int
    flat: bool
    dtype: DType | None
    optimizer: OptimizerState | None
    sources: dict[str, LogicalTensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sources |= self.checkpoint.index
        for tensors in self.optimizer.moments.values() if self.optimizer else ():
            self.sources |= {tensor.name: tensor for tensor in tensors.values()}

    @property
    def description(self) -> str:
        """The layout in words."""
        count, shards = self.parallel.size, self.fsdp_size
        if self.flat:
            return f"{count} metaseq parts x {shards} FSDP shards of flat parameters"
        return f"{count} consolidated metaseq parts"

    def omissions(self) -> Iterator[Omission]:
        """What the source has and the target leaves out."""
        found = self.checkpoint.metadata
        if self.optimizer is None and found and OPTIMIZER in found[0].entries:
            yield Omission(OPTIMIZER, "weights only; --optimizer keep writes it too")

    def part(self, rank: int) -> Iterator[PlannedFile]:
        """The files of one tensor-parallel part."""
        source = rank if self.parallel.size == len(self.checkpoint.metadata) else 0
        metadata = self.checkpoint.metadata[source] if self.checkpoint.metadata else None
        carried = carried_storages(f"part {source} storage", metadata.storages) if metadata else {}
        self.sources |= {each.name: each for each in carried.values()}
        units = [LocalUnit(unit, self._local(unit.names, rank)) for unit in self.parallel.units()]
        version = self._version()
        models = (
            flat_models(units, version, self.fsdp_size)
            if self.flat
            else [unflattened_model(units, version)]
        )
        states = self._optimizer_states(metadata, rank, len(models))
        for shard, (model, state) in enumerate(zip(models, states, strict=True)):
            content = {"model": model, "shard_metadata": self._shard_metadata(units, shard)}
            content |= state | self._entries(metadata)
            name = self._name(rank, shard)
            yield torch_archive(name, in_order(content) if self.flat else content, carried)

    def _name(self, rank: int, shard: int) -> str:
        if self.flat:
            return f"checkpoint_last-model_part-{rank}-shard{shard}.pt"
        return f"reshard-model_part-{rank}.pt"

    def _local(self, names: Sequence[str], rank: int) -> list[TargetTensor]:
        index, dtype = self.checkpoint.index, self.dtype
        return [
            self.parallel.local(
                name, dtype or common_dtype(name, map(index.__getitem__, logical_names(name))), rank
            )
            for name in names
        ]

    def _version(self) -> TargetStorage:
        index, dtype = self.checkpoint.index, self.dtype
        if VERSION_BUFFER in index:
            return storage_of([copied(index[VERSION_BUFFER], dtype=dtype)])
        return version_storage(dtype or next(iter(index.values())).dtype)

    def _entries(self, metadata: PartMetadata | None) -> dict[str, Any]:
        if metadata is None:
            return minimal_entries(self.parallel)
        return carried_entries(metadata.entries, self.parallel.size)

    def _shard_metadata(self, units: Sequence[LocalUnit], shard: int) -> dict[str, Any]:
        tied, count = self.checkpoint.config.tied_embeddings, self.fsdp_size
        return shard_metadata(units, tied, shard, count)

    def _optimizer_states(
        self, metadata: PartMetadata | None, rank: int, count: int
    ) -> list[dict[str, Any]]:
        """The entry for the optimizer of each file of the part."""
        if self.optimizer is None or metadata is None:
            return [{} for _ in range(count)]
        states = optimizer_states(self.optimizer, metadata.entries, self.parallel, rank, count)
        return [{OPTIMIZER: state} for state in states]
