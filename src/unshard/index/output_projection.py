"""The output projection: the token embedding itself (tied), a stored copy of it, or its own.

Every OPT is tied, and raw files say so in `shared_param_info` instead of storing it twice.
Some tools store the copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from unshard.architectures.opt import EMBEDDING, OUTPUT_PROJECTION
from unshard.errors import CheckpointError
from unshard.index.arguments import ModelArguments
from unshard.index.part import PartTensors
from unshard.index.slices import concatenate
from unshard.tensors import Chunk, LogicalTensor, TensorRef

TIED_PAIR = (EMBEDDING, OUTPUT_PROJECTION)


@dataclass(frozen=True, slots=True)
class Output:
    """Whether the output projection is tied, and what says so."""

    tied: bool
    evidence: str


def judge_output(
    source: str, part: PartTensors, arguments: ModelArguments, shared: frozenset[tuple[str, str]]
) -> Output:
    """What the output projection is, from what is stored, `cfg` and `shared_param_info`.

    Where it is stored and nothing says that it is a copy, it has weights of its own: that
    is right for an untied model, and for a tied one merely keeps the copy.

    Raises:
        CheckpointError: cfg says that it has its own weights, and they are missing.
    """
    stored = part.tensors.get(OUTPUT_PROJECTION)
    if TIED_PAIR in shared:
        return Output(True, "the output projection is tied: shared_param_info says so")
    if stored is None:
        if arguments.tied_embeddings is False:
            raise CheckpointError(
                f"{source}: tensor {OUTPUT_PROJECTION} is missing, and cfg says that it is not "
                "tied to the embedding"
            )
        return Output(True, "the output projection is tied: it is not stored")
    embedding = part.tensors.get(EMBEDDING)
    if embedding is not None and embedding.ranges == stored.ranges:
        return Output(True, "the output projection is tied: it is a view of the embedding")
    if arguments.tied_embeddings is None:
        return Output(False, "the output projection is stored, and nothing says it is a copy")
    if arguments.tied_embeddings:
        return Output(True, "the output projection is tied by cfg; the stored copy is compared")
    return Output(False, "the output projection has weights of its own: cfg says so")


def take_copies(
    source: str, parts: Sequence[PartTensors]
) -> tuple[list[PartTensors], list[TensorRef]]:
    """The parts without their copies of the embedding, and those copies that are bytes of
    their own, by part.

    Raises:
        CheckpointError: a copy has not the embedding's shape, or not every part has one.
    """
    copies = [part.tensors.get(OUTPUT_PROJECTION) for part in parts]
    taken = []
    for rank, (part, copy) in enumerate(zip(parts, copies, strict=True)):
        embedding = part.tensors.get(EMBEDDING)
        if (copy is None) != (copies[0] is None):
            raise CheckpointError(f"{source}: {OUTPUT_PROJECTION} is not in every part")
        if copy is None or embedding is None or copy.ranges == embedding.ranges:
            continue
        if (copy.shape, copy.dtype) != (embedding.shape, embedding.dtype):
            raise CheckpointError(
                f"{source}: {OUTPUT_PROJECTION} of part {rank} is {copy.dtype.name} {copy.shape}, "
                f"which is no copy of the embedding, {embedding.dtype.name} {embedding.shape}"
            )
        taken.append(copy)
    if len(taken) not in (0, len(parts)):
        raise CheckpointError(f"{source}: {OUTPUT_PROJECTION} is a view in some parts only")
    return [_without(part) for part in parts], taken


def _without(part: PartTensors) -> PartTensors:
    tensors = {name: ref for name, ref in part.tensors.items() if name != OUTPUT_PROJECTION}
    units = (tuple(name for name in unit if name != OUTPUT_PROJECTION) for unit in part.units)
    return replace(part, tensors=tensors, units=tuple(unit for unit in units if unit))


def with_copies(embedding: LogicalTensor, copies: Sequence[TensorRef]) -> LogicalTensor:
    """The embedding with the parts' copies as one replica of the whole.

    Parts split it by rows, so that both are the parts' bytes end to end.
    """
    if not copies:
        return embedding
    chunk = Chunk((0, 0), concatenate(EMBEDDING, [chunk.ref for chunk in embedding.chunks]))
    return replace(embedding, chunks=(chunk,), replicas=(concatenate(EMBEDDING, copies),))
