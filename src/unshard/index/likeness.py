"""A checkpoint by the headers of its first file alone: the other files are taken to be like it.

metaseq's files of one checkpoint differ in weights, padding and names. So one file and the
names of all say what the model is and how large everything made of it will be, before the
other files are fetched. What was not looked at is not checked: this is for forecasts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from unshard.formats.torch_zip import read_torch_files
from unshard.index.checkpoint import Checkpoint
from unshard.index.fsdp import padding_of
from unshard.index.grid import Grid, place_files
from unshard.index.metaseq import assemble_metaseq
from unshard.index.part import PartFiles, RankFile, read_part_files
from unshard.index.sources import Source
from unshard.tensors import ByteRange, TensorRef


def first_name(source: str, names: Sequence[str]) -> str:
    """The name of the file that speaks for all `names`: that of the first rank.

    Raises:
        UsageError, CheckpointError: the names are not those of one whole metaseq checkpoint.
    """
    return place_files(source, [Path(name) for name in names])[0][0].path.name


def open_by_first_file(source: str, folder: Path, names: Sequence[str]) -> Checkpoint:
    """The checkpoint of files `names`, of which `folder` holds `first_name` at least.

    Raises:
        UsageError, CheckpointError: the names are not those of one whole metaseq checkpoint,
            or the file is none of an OPT's.
        FormatError: the file breaks its format.
    """
    paths = tuple(folder / name for name in names)
    grid = place_files(source, paths)
    read = read_part_files(read_torch_files([grid[0][0].path]))
    parts = [_alike(read, grid, tp_rank) for tp_rank in grid]
    return assemble_metaseq(Source(source, paths), grid, parts)


def _alike(read: PartFiles, grid: Grid, tp_rank: int) -> PartFiles:
    paths = [str(file.path) for file in grid[tp_rank].values()]
    ranks = (_rank(read.first, path, rank, len(paths)) for rank, path in enumerate(paths))
    return replace(read, ranks=tuple(ranks))


def _rank(first: RankFile, path: str, rank: int, fsdp_size: int) -> RankFile:
    metadata = first.metadata
    if metadata is not None:
        paddings = (padding_of(flat.num_elements, rank, fsdp_size) for flat in metadata.flats)
        metadata = replace(metadata, paddings=tuple(paddings))
    stored = tuple(replace(record, path=path) for record in first.stored)
    return RankFile(path, _moved(first.model, path), metadata, stored)


def _moved(model: Mapping[str, TensorRef], path: str) -> dict[str, TensorRef]:
    return {
        name: replace(
            ref, ranges=tuple(ByteRange(path, each.offset, each.length) for each in ref.ranges)
        )
        for name, ref in model.items()
    }
