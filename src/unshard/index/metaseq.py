"""metaseq's layouts: files of flat parameters or of tensors, of one or many ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from unshard.errors import CheckpointError
from unshard.formats.torch_zip import read_torch_files
from unshard.index.arguments import ModelArguments, merge_arguments
from unshard.index.checkpoint import Checkpoint, Layout
from unshard.index.companions import find_companions
from unshard.index.evidence import model_evidence, naming_evidence, storage_evidence
from unshard.index.flat_layout import flat_layout
from unshard.index.fsdp import unflatten
from unshard.index.fused import is_fused
from unshard.index.grid import Grid, place_files
from unshard.index.layer_blocks import unblock
from unshard.index.output_projection import judge_output, take_copies
from unshard.index.part import PartFiles, PartTensors, as_stored, read_part_files, split_part
from unshard.index.shape import derive_config
from unshard.index.sources import Source
from unshard.index.tensor_parallel import build_index


def open_metaseq(source: Source) -> Checkpoint:
    """Opens a checkpoint whose files have a `model`.

    Raises:
        UsageError: the files belong to several checkpoints.
        CheckpointError: files or tensors are missing, left over or disagree.
        FormatError: a file breaks its format.
    """
    grid = place_files(source.text, source.files)
    opened = read_torch_files(file.path for row in grid.values() for file in row.values())
    read = [read_part_files(islice(opened, len(row))) for row in grid.values()]
    return assemble_metaseq(source, grid, read)


def assemble_metaseq(source: Source, grid: Grid, read: Sequence[PartFiles]) -> Checkpoint:
    """The checkpoint whose files, by their ranks in `grid`, hold what was `read` of each part.

    Raises:
        CheckpointError: files or tensors are missing, left over or disagree.
    """
    arguments = _merged_arguments(read)
    stored, cutting = _tensors(source.text, read, arguments)
    unblocked, layers_per_block = unblock(source.text, stored)
    parts = [split_part(part) for part in unblocked]
    shared = read[0].first.metadata.shared if read[0].first.metadata else frozenset()
    output = judge_output(source.text, parts[0], arguments, shared)
    parts, copies = take_copies(source.text, parts) if output.tied else (parts, [])
    shapes = {name: ref.shape for name, ref in parts[0].tensors.items()}
    config = derive_config(source.text, shapes, len(parts), arguments)
    named = not stored[0].flat or read[0].first.metadata is not None
    evidence = (
        *source.notes,
        naming_evidence(grid),
        *storage_evidence(stored[0], layers_per_block, named=named),
        *cutting,
        output.evidence,
        *model_evidence(config, arguments),
    )
    return Checkpoint(
        source=source.text,
        folder=source.folder,
        layout=_layout(grid, stored[0], evidence),
        config=config,
        index=build_index(source.text, parts, config, copies),
        metadata=tuple(part.beside for part in read),
        units=parts[0].units,
        companions=find_companions(source.folder),
        stored=tuple(record for part in read for rank in part.ranks for record in rank.stored),
    )


def _layout(grid: Grid, first: PartTensors, evidence: tuple[str, ...]) -> Layout:
    return Layout(
        kind="metaseq-raw" if first.flat else "metaseq-consolidated",
        tp_size=len(grid),
        fsdp_size=len(grid[0]),
        fused_qkv=any(map(is_fused, first.tensors)),
        files=tuple(file.path for row in grid.values() for file in row.values()),
        evidence=evidence,
    )


def _merged_arguments(parts: Sequence[PartFiles]) -> ModelArguments:
    merged = parts[0].arguments
    for part in parts[1:]:
        merged = merge_arguments(merged, parts[0].first.path, part.arguments, part.first.path)
    return merged


def _tensors(
    source: str, parts: Sequence[PartFiles], arguments: ModelArguments
) -> tuple[list[PartTensors], tuple[str, ...]]:
    """Each part's tensors under their stored names, and what said how to cut them out."""
    tensors: list[PartTensors] = []
    evidence: dict[str, None] = {}
    for part in parts:
        if part.flat != parts[0].flat:
            raise CheckpointError(
                f"{part.first.path}: holds {'flat parameters' if part.flat else 'whole tensors'}, "
                f"unlike {parts[0].first.path}"
            )
        if not part.flat:
            tensors.append(as_stored(part))
            continue
        layout = flat_layout(source, replace(part, arguments=arguments), len(parts))
        tensors.append(unflatten(part, layout.flats))
        evidence[layout.evidence] = None
    return tensors, tuple(evidence)
