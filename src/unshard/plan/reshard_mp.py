"""metaseq's `reshard_mp`: another number of tensor-parallel parts.

The output holds what the original's holds: six keys, one storage for each tensor, K, V and Q
fused where they were, but where the original is wrong (docs/metaseq-commands.md).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unshard.architectures.opt import OPTConfig, tensor_rules
from unshard.errors import CheckpointError, UsageError
from unshard.formats.records import as_mapping
from unshard.formats.torch_release import TORCH_1_13, TorchRelease
from unshard.formats.torch_zip import TorchFile, storage_refs, stored_records
from unshard.index.fused import logical_names
from unshard.index.local_part import read_local_part
from unshard.index.part import PartTensors, split_part
from unshard.index.shape import tensor_parallel_size
from unshard.placement import Placement, Replicate, Shard, assembled, local_box
from unshard.plan.copy_plan import Box, CopyPlan, TargetTensor
from unshard.plan.local_tensors import stacked
from unshard.plan.metaseq_content import NUM_PARTS, set_num_parts
from unshard.plan.original_process import OriginalProcess
from unshard.plan.small_files import carried_storages, used_sources
from unshard.plan.torch_archive import pickled_tensor, storage_of, torch_archive
from unshard.tensors import UNCUT, Cut, LogicalTensor, Shape

KEYS = ("model", "cfg", "extra_state", "optimizer_history", "args", "shard_metadata")
LAYER = re.compile(r"^decoder\.layers\.\d+\.")
EVERY_KIND = OPTConfig(
    num_layers=1, hidden_size=2, num_heads=1, ffn_dim=1, vocab_size=1, max_positions=1,
    embedding_size=1, tied_embeddings=False,
)  # fmt: skip
"""Has every tensor that an OPT can have."""
GATED = ("weight", "bias")


@dataclass(frozen=True, slots=True)
class MpOptions:
    """The original's options, with its defaults, and how to write."""

    num_output_parts: int = 1
    release: TorchRelease = TORCH_1_13


def placements() -> dict[str, Placement]:
    """How every tensor of an OPT, or of one with gated activations, is split; layers as 0."""
    known = {name: rule.placement for name, rule in tensor_rules(EVERY_KIND).items()}
    gate = {f"decoder.layers.0.activation_fn.gate.{part}": Shard(0) for part in GATED}
    return known | gate


def plan_reshard_mp(
    source: str, files: Sequence[TorchFile], names: Sequence[str], options: MpOptions
) -> CopyPlan:
    """The plan that writes the unflattened parts `files`, in order, as the files `names`, one
    for each of the output parts.

    Raises:
        UsageError: a part is flat, or the options ask for the impossible.
        CheckpointError: the parts do not fit together, hold an unknown tensor, or do not divide.
    """
    parts = [read_local_part([file]) for file in files]
    for file, part in zip(files, parts, strict=True):
        if part.flat:
            raise UsageError(
                f"{file.path}: holds flat parameters",
                hint="unflatten it first: unshard metaseq reshard-fsdp --unflatten-weights True",
            )
    merged = _Merged(files, parts, options)
    carried = carried_storages("storage", storage_refs(files[0]))
    outputs = tuple(
        torch_archive(name, content, carried, options.release)
        for name, content in zip(names, merged.contents(), strict=True)
    )
    sources = merged.sources | {each.name: each for each in carried.values()}
    return CopyPlan(
        source,
        f"metaseq's reshard_mp: {len(names)} parts",
        used_sources(outputs, sources),
        outputs,
        stored=tuple(record for file in files for record in stored_records(file)),
    )


class _Merged:
    """The parts as whole tensors, and what the output pickles of them."""

    def __init__(
        self, files: Sequence[TorchFile], parts: Sequence[PartTensors], options: MpOptions
    ) -> None:
        self._files, self._parts, self._options = files, parts, options
        self._split = [split_part(part) for part in parts]
        self._refuse_other_names()
        self._refuse_missing_parts()
        self._placements = self._placed()
        self.sources = {name: self._whole(name) for name in self._split[0].tensors}

    def _refuse_other_names(self) -> None:
        for file, part in zip(self._files, self._parts, strict=True):
            for name in sorted(part.tensors.keys() ^ self._parts[0].tensors.keys()):
                holder = file if name in part.tensors else self._files[0]
                raise CheckpointError(f"only {holder.path} of the parts has a tensor {name}")

    def _refuse_missing_parts(self) -> None:
        """Names have no gap where the last parts are missing; shapes tell."""
        path, count = self._files[0].path, len(self._files)
        shapes = {name: ref.shape for name, ref in self._split[0].tensors.items()}
        split = tensor_parallel_size(path, shapes)
        if split != count:
            raise CheckpointError(
                f"{path}: is one of {split:g} tensor-parallel parts, but {count} "
                f"{'was' if count == 1 else 'were'} given",
                hint="are all parts here, and does the pattern match just them?",
            )

    def _placed(self) -> dict[str, Placement]:
        known, placed = placements(), {}
        for name in self._split[0].tensors:
            placement = known.get(LAYER.sub("decoder.layers.0.", name))
            if placement is None:
                raise CheckpointError(
                    f"{self._files[0].path}: how tensor parallelism splits {name} is unknown"
                )
            placed[name] = placement
        return placed

    def _whole(self, name: str) -> LogicalTensor:
        refs = [part.tensors[name] for part in self._split]
        first, placement = refs[0], self._placements[name]
        if any((ref.dtype, ref.shape) != (first.dtype, first.shape) for ref in refs):
            raise CheckpointError(f"{name}: its dtype or shape differs between the parts")
        if isinstance(placement, Replicate):
            return assembled(name, first.shape, placement, refs)
        dim, sizes = placement.dim, list(first.shape)
        sizes[dim] *= len(refs)
        shape = tuple(sizes)
        return assembled(name, shape, placement, refs, cut=self._cut(shape, dim))

    def _cut(self, shape: Shape, dim: int) -> Cut:
        count = math.lcm(len(self._files), self._options.num_output_parts)
        return UNCUT if shape[dim] % count else Cut(dim, count)

    def contents(self) -> Iterator[dict[str, Any]]:
        """What each output file pickles."""
        process = OriginalProcess(self._options.release, (*KEYS, NUM_PARTS))
        entries: Mapping[str, Any] = as_mapping(process.load(self._files[0].content)) or {}
        count = self._options.num_output_parts
        set_num_parts(entries, count, process.name(NUM_PARTS))
        keys = list(as_mapping(entries["model"]) or {})
        for rank in range(count):
            tensors = [self._local(key, rank) for key in keys]
            views = [pickled_tensor(storage_of([each]), 0, each.shape) for each in tensors]
            model = dict(zip(keys, views, strict=True))
            yield {process.name(key): model if key == "model" else entries.get(key) for key in KEYS}

    def _local(self, name: str, rank: int) -> TargetTensor:
        """The stored tensor `name` (perhaps a fused one) of one output part."""
        sources = [self.sources[logical] for logical in logical_names(name)]
        pieces = ((source.name, self._box(source, rank)) for source in sources)
        return stacked(name, sources[0].dtype, pieces)

    def _box(self, source: LogicalTensor, rank: int) -> Box:
        placement, count = self._placements[source.name], self._options.num_output_parts
        return Box(*local_box(source.name, source.shape, placement, rank, count))
