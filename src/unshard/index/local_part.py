"""One tensor-parallel part by its own metadata alone, whatever model it is a part of."""

from __future__ import annotations

from collections.abc import Sequence

from unshard.errors import CheckpointError
from unshard.formats.torch_zip import TorchFile
from unshard.index.arguments import ModelArguments
from unshard.index.checkpoint import PartMetadata
from unshard.index.fsdp import unflatten
from unshard.index.part import PartFiles, PartTensors, as_stored, read_rank_file


def read_local_part(files: Sequence[TorchFile]) -> PartTensors:
    """The tensors in the files of all FSDP ranks of one part, in rank order.

    Raises:
        CheckpointError: the files do not fit together, or flat parameters have no metadata.
        FormatError: a file breaks its format.
    """
    first = read_rank_file(files[0])
    ranks = (first, *(read_rank_file(file, first) for file in files[1:]))
    part = PartFiles(ranks, ModelArguments(), PartMetadata({}, {}))
    if not part.flat:
        return as_stored(part)
    if first.metadata is None:
        raise CheckpointError(
            f"{first.path}: holds flat parameters without shard_metadata, which says what is in "
            "them",
            hint="`unshard reshard --to metaseq` knows the releases that have none",
        )
    return unflatten(part, first.metadata.flats)
