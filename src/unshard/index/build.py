"""Opening a checkpoint: any layout in, one index out. Reads headers and pickles only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unshard.errors import CheckpointError
from unshard.formats.records import as_mapping
from unshard.formats.torch_zip import TorchFile, read_torch_file, storage_refs, stored_records
from unshard.index.checkpoint import Checkpoint, Layout, PartMetadata
from unshard.index.companions import find_companions
from unshard.index.fsdp import PartTensors, read_part
from unshard.index.hugging_face import read_hugging_face
from unshard.index.shape import derive_config, training_arguments
from unshard.index.sources import CheckpointFile, find_files, place_files
from unshard.index.tensor_parallel import FUSED, build_index, split_part
from unshard.tensors import StoredRecord


def open_checkpoint(source: str | Path) -> Checkpoint:
    """Opens the checkpoint that `source` (folder, glob or file) means.

    Raises:
        UsageError: nothing is there, or several checkpoints are.
        FormatError: a file breaks its format.
        CheckpointError: files or tensors are missing, left over or disagree.
    """
    source = str(source)
    paths = find_files(source)
    if paths[0].suffix == ".safetensors":
        return _open_hugging_face(source, paths)
    return _open_metaseq(source, paths)


def _open_metaseq(source: str, paths: tuple[Path, ...]) -> Checkpoint:
    grid = place_files(source, paths)
    metadata: list[PartMetadata] = []
    parts: list[PartTensors] = []
    stored: list[StoredRecord] = []
    for row in grid.values():
        files = [read_torch_file(file.path) for file in row.values()]
        metadata.append(_metadata(files[0]))
        parts.append(read_part(files))
        stored += (record for file in files for record in stored_records(file))
    split = [split_part(part) for part in parts]
    shapes = {name: ref.shape for name, ref in split[0].tensors.items()}
    config = derive_config(source, shapes, len(parts), training_arguments(metadata[0].entries))
    index = build_index(source, split, config)
    fsdp_size = len(next(iter(grid.values())))
    layout = Layout(
        kind="metaseq-raw" if parts[0].flat else "metaseq-consolidated",
        tp_size=len(parts),
        fsdp_size=fsdp_size,
        fused_qkv=any(f".{FUSED}." in name for name in parts[0].tensors),
        files=paths,
        evidence=_evidence(grid, parts[0], metadata[0].entries),
    )
    return Checkpoint(
        source=source,
        folder=paths[0].parent,
        layout=layout,
        config=config,
        index=index,
        metadata=tuple(metadata),
        units=parts[0].units,
        companions=find_companions(paths[0].parent),
        stored=tuple(stored),
    )


def _metadata(file: TorchFile) -> PartMetadata:
    content = as_mapping(file.content)
    if content is None:
        raise CheckpointError(
            f"{file.path}: holds no dict, so it is no metaseq checkpoint",
            hint="is this the right folder?",
        )
    entries = {key: value for key, value in content.items() if key != "model"}
    return PartMetadata(entries, storage_refs(file))


def _evidence(
    grid: Mapping[int, Mapping[int, CheckpointFile]], part: PartTensors, metadata: Mapping[str, Any]
) -> tuple[str, ...]:
    ranks = [len(row) for row in grid.values()]
    fused = any(f".{FUSED}." in name for name in part.tensors)
    return (
        f"file names give {len(grid)} tensor-parallel parts x {ranks[0]} FSDP shards",
        f"shard_metadata is {'present' if 'shard_metadata' in metadata else 'absent'}",
        f"attention projections are {'fused, in the order K, V, Q' if fused else 'separate'}",
    )


def _open_hugging_face(source: str, paths: tuple[Path, ...]) -> Checkpoint:
    config, index = read_hugging_face(source, paths[0].parent, paths)
    layout = Layout(
        kind="huggingface",
        tp_size=1,
        fsdp_size=1,
        fused_qkv=False,
        files=paths,
        evidence=("safetensors with a config.json of model_type opt",),
    )
    return Checkpoint(
        source=source,
        folder=paths[0].parent,
        layout=layout,
        config=config,
        index=index,
        metadata=(),
        units=tuple((name,) for name in index),
        companions=find_companions(paths[0].parent),
    )
