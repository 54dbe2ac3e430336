"""metaseq's `reshard_fsdp`: the FSDP shards of one part, merged, and perhaps cut anew.

The output holds what the original's holds, value for value and object for object: keys in
the same order, one storage for each unit, the metadata of the first shard, but where the
original is wrong (docs/metaseq-commands.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from unshard.dtypes import FLOATS, DType
from unshard.errors import CheckpointError, UsageError
from unshard.formats.records import as_mapping
from unshard.formats.torch_release import TORCH_1_13, TorchRelease
from unshard.formats.torch_zip import TorchFile, storage_refs, stored_records
from unshard.index.local_part import read_local_part
from unshard.index.optimizer import KEY as OPTIMIZER
from unshard.index.part import PartTensors
from unshard.plan.copy_plan import CopyPlan, TargetTensor
from unshard.plan.flat_shards import flat_shards
from unshard.plan.original_process import OriginalProcess
from unshard.plan.pickled_metadata import FlatNames, buffer_names, flat_names, for_shard
from unshard.plan.reshard_optimizer import resharded_optimizer
from unshard.plan.small_files import carried_storages, copied, used_sources
from unshard.plan.torch_archive import pickled_tensor, storage_of, torch_archive, views_of
from unshard.tensors import LogicalTensor, TensorRef

WORDS = ("model", "shard_metadata", OPTIMIZER, "state")
"""The keys of the output that stand in the original's source."""


@dataclass(frozen=True, slots=True)
class FsdpOptions:
    """The original's options, with its defaults, and how to write."""

    num_output_shards: int = 1
    unflatten_weights: bool = True
    skip_optimizer_state: bool = False
    output_dtype: DType | None = None
    """For weights and buffers; an optimizer's state stays as it is."""
    drop_metaseq_req: bool = False
    """Leaves out the data loader's state where only metaseq's own classes can load it."""
    release: TorchRelease = TORCH_1_13


def plan_reshard_fsdp(
    source: str, files: Sequence[TorchFile], names: Sequence[str], options: FsdpOptions
) -> CopyPlan:
    """The plan that writes the FSDP shards `files` of one part, in rank order, as the files
    `names`, one for each of the output shards.

    Raises:
        UsageError: the options contradict each other.
        CheckpointError: the files do not fit together, or say too little.
    """
    if options.unflatten_weights and options.num_output_shards > 1:
        raise UsageError(
            f"weights can be unflattened into one file only, not into {options.num_output_shards}",
            hint="--unflatten-weights False",
        )
    reshard = _Reshard(files, options)
    contents = reshard.contents()
    carried = carried_storages("storage", storage_refs(files[0]))
    outputs = tuple(
        torch_archive(name, content, carried, options.release)
        for name, content in zip(names, contents, strict=True)
    )
    shards = f"{len(names)} FSDP shards" if len(names) > 1 else "one file"
    layout = "unflattened" if options.unflatten_weights else "flat"
    return CopyPlan(
        source,
        f"metaseq's reshard_fsdp: {shards}, {layout}",
        used_sources(outputs, reshard.sources | {each.name: each for each in carried.values()}),
        outputs,
        stored=tuple(record for file in files for record in stored_records(file)),
    )


@dataclass(frozen=True, slots=True)
class _Flat:
    """A flat parameter as the metadata names it, and the tensors that it holds."""

    key: str
    names: list[str]
    tensors: list[TargetTensor]

    @property
    def num_elements(self) -> int:
        return sum(tensor.num_elements for tensor in self.tensors)

    def unflattened(self) -> dict[str, Any]:
        """The tensors as `views_of`, under the metadata's own strings."""
        views = (view for _, view in views_of(self.tensors))
        return dict(zip(self.names, views, strict=True))


@dataclass
class _Reshard:
    """One reshard while its contents are put together; `sources` grows with them."""

    files: Sequence[TorchFile]
    options: FsdpOptions
    sources: dict[str, LogicalTensor] = field(default_factory=dict)

    def contents(self) -> list[dict[str, Any]]:
        """What each output file pickles."""
        part = read_local_part(self.files)
        process = OriginalProcess(self.options.release, WORDS)
        entries: Mapping[str, Any] = as_mapping(process.load(self.files[0].content)) or {}
        metadata = as_mapping(entries.get("shard_metadata"))
        if metadata is None:
            raise CheckpointError(
                f"{self.files[0].path}: has no shard_metadata, which says what it holds",
                hint="`unshard reshard --to metaseq` knows the releases that have none",
            )
        flats = [self._flat(part, each) for each in flat_names(metadata)]
        models = self._models(flats, dict(self._buffers(part, metadata, flats)))
        contents: list[dict[str, Any]] = []
        for rank, model in enumerate(models):
            said = entries["shard_metadata"]
            if not self.options.unflatten_weights:
                tensors = {flat.key: flat.tensors for flat in flats}
                said = for_shard(metadata, tensors, rank, len(models))
            contents.append({process.name("model"): model, process.name("shard_metadata"): said})
        self._add_optimizer(contents, entries, flats, process)
        skipped = {"model", "shard_metadata", OPTIMIZER}
        others = {key: value for key, value in entries.items() if key not in skipped}
        if self.options.drop_metaseq_req:
            others = _without_metaseq_classes(others)
        return [content | others for content in contents]

    def _flat(self, part: PartTensors, names: FlatNames) -> _Flat:
        tensors = [self._target(self._stored(part, name)) for name in names.names]
        return _Flat(names.key, names.names, tensors)

    def _stored(self, part: PartTensors, name: str) -> TensorRef:
        ref = part.tensors.get(name)
        if ref is None:
            raise CheckpointError(
                f"{self.files[0].path}: tensor {name} of its shard_metadata is missing"
            )
        return ref

    def _target(self, ref: TensorRef, replicas: Sequence[TensorRef] = ()) -> TargetTensor:
        """The stored tensor in the output's dtype, and a source for it."""
        source = LogicalTensor.of(ref, tuple(replicas))
        self.sources[ref.name] = source
        return copied(source, dtype=self.options.output_dtype if ref.dtype in FLOATS else None)

    def _buffers(
        self, part: PartTensors, metadata: Mapping[str, Any], flats: Sequence[_Flat]
    ) -> Iterator[tuple[str, TargetTensor]]:
        """What FSDP does not shard: the buffers that the metadata names, then any others."""
        named = buffer_names(self.files[0].path, metadata)
        flattened = {name for flat in flats for name in flat.names}
        others = [name for name in part.tensors if name not in flattened and name not in named]
        for name in (*named, *others):
            yield name, self._target(self._stored(part, name), part.copies.get(name, ()))

    def _models(
        self, flats: Sequence[_Flat], buffers: Mapping[str, TargetTensor]
    ) -> list[dict[str, Any]]:
        """The state dict of each output file."""
        models: list[dict[str, Any]] = [{} for _ in range(self.options.num_output_shards)]
        for flat in flats:
            if self.options.unflatten_weights:
                models[0] |= flat.unflattened()
                continue
            shards = flat_shards(flat.key, flat.tensors, len(models))
            for model, shard in zip(models, shards, strict=True):
                model[flat.key] = shard
        for model in models:
            for name, tensor in buffers.items():
                model[name] = pickled_tensor(storage_of([tensor]), 0, tensor.shape)
        return models

    def _add_optimizer(
        self,
        contents: Sequence[dict[str, Any]],
        entries: Mapping[str, Any],
        flats: Sequence[_Flat],
        process: OriginalProcess,
    ) -> None:
        if self.options.skip_optimizer_state or OPTIMIZER not in entries:
            return
        sizes = [flat.num_elements for flat in flats]
        sources, states = resharded_optimizer(
            self.files, sizes, entries[OPTIMIZER], len(contents), process
        )
        self.sources |= sources
        for content, state in zip(contents, states, strict=True):
            content[process.name(OPTIMIZER)] = state


def _without_metaseq_classes(entries: Mapping[str, Any]) -> dict[str, Any]:
    extra = as_mapping(entries.get("extra_state")) or {}
    iterator = as_mapping(extra.get("train_iterator")) or {}
    if "tokenization_cache" not in iterator:
        return dict(entries)
    return {**entries, "extra_state": {**extra, "train_iterator": None}}
