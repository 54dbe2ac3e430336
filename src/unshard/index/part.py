"""One tensor-parallel part: what its files hold, and its tensors once they are cut out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from unshard.architectures.opt import VERSION_BUFFER
from unshard.errors import CheckpointError
from unshard.formats.records import as_mapping
from unshard.formats.torch_zip import TorchFile, storage_refs, stored_records, tensors_of
from unshard.index.arguments import ModelArguments, merge_arguments, read_arguments
from unshard.index.checkpoint import PartMetadata
from unshard.index.fused import split_fused
from unshard.index.shard_metadata import ShardMetadata, read_shard_metadata
from unshard.tensors import StoredRecord, TensorRef

FLAT_PARAMETER = "flat_param_"


@dataclass(frozen=True, slots=True)
class RankFile:
    """One FSDP rank's file, reduced to what the index needs of it."""

    path: str
    model: dict[str, TensorRef]
    metadata: ShardMetadata | None
    stored: tuple[StoredRecord, ...]


@dataclass(frozen=True, slots=True)
class PartFiles:
    """All files of one part, in rank order; they hold the same parameters."""

    ranks: tuple[RankFile, ...]
    arguments: ModelArguments
    beside: PartMetadata
    """What the first rank's file holds beside its weights."""

    @property
    def first(self) -> RankFile:
        return self.ranks[0]

    @property
    def flat(self) -> bool:
        """Whether the files hold flat parameters instead of tensors."""
        return any(map(is_flat_parameter, self.first.model))


@dataclass(frozen=True, slots=True)
class PartTensors:
    """The tensors of one part, with local shapes and metaseq's names."""

    tensors: dict[str, TensorRef]
    copies: dict[str, tuple[TensorRef, ...]]
    """Buffers that the FSDP ranks after the first also hold."""
    units: tuple[tuple[str, ...], ...]
    """Names by FSDP unit, root first; buffers are units of their own, last."""
    stored_bytes: int
    padding_bytes: int
    flat: bool
    """Whether the files hold flat parameters."""


def is_flat_parameter(name: str) -> bool:
    """Whether a state dict's entry of this name is a flat parameter."""
    return name.rsplit(".", 1)[-1].startswith(FLAT_PARAMETER)


def read_part_files(files: Iterable[TorchFile]) -> PartFiles:
    """The files of all FSDP ranks of one part, in rank order.

    Of every file but the first only tensors and arguments stay in memory.

    Raises:
        CheckpointError: a file is no checkpoint, or they do not belong together.
    """
    opened = iter(files)
    file = next(opened)
    first = read_rank_file(file)
    beside, arguments = _beside(file), _arguments(file)
    ranks = [first]
    for file in opened:
        ranks.append(read_rank_file(file, first))
        arguments = merge_arguments(arguments, first.path, _arguments(file), file.path)
    return PartFiles(tuple(ranks), arguments, beside)


def read_rank_file(file: TorchFile, first: RankFile | None = None) -> RankFile:
    """One FSDP rank's file; `first` is the first rank's, and holds the same parameters.

    Raises:
        CheckpointError: it does not, or the file is no checkpoint.
    """
    metadata = read_shard_metadata(file, first.metadata if first else None)
    rank = RankFile(file.path, _model_of(file), metadata, tuple(stored_records(file)))
    if first is not None and list(rank.model) != list(first.model):
        raise CheckpointError(f"{file.path}: holds other parameters than {first.path}")
    return rank


def _beside(file: TorchFile) -> PartMetadata:
    content = as_mapping(file.content) or {}
    entries = {key: value for key, value in content.items() if key != "model"}
    return PartMetadata(entries, storage_refs(file))


def _arguments(file: TorchFile) -> ModelArguments:
    return read_arguments(file.path, as_mapping(file.content) or {})


def _model_of(file: TorchFile) -> dict[str, TensorRef]:
    content = as_mapping(file.content)
    if content is None or "model" not in content:
        raise CheckpointError(
            f"{file.path}: has no 'model' entry, so it is no metaseq checkpoint",
            hint="is this the right folder?",
        )
    return {ref.name: _buffer(ref) for ref in tensors_of(file, content["model"], "model")}


def _buffer(ref: TensorRef) -> TensorRef:
    """The version buffer as a vector, whether it was saved as one or as a scalar."""
    return replace(ref, shape=(1,)) if ref.name == VERSION_BUFFER and not ref.shape else ref


def as_stored(part: PartFiles) -> PartTensors:
    """The tensors of a part that holds them under their own names.

    Shapes in `shard_metadata` are not looked at: metaseq's `reshard_mp` leaves the old ones.

    Raises:
        CheckpointError: there are several files of the part.
    """
    first, model = part.first, part.first.model
    if len(part.ranks) > 1:
        raise CheckpointError(
            f"{first.path}: holds whole tensors, yet there are {len(part.ranks)} FSDP shards of "
            "this part",
            hint="do the files belong to several checkpoints? choose one with a pattern",
        )
    flats = first.metadata.flats if first.metadata else ()
    grouped = [flat.names for flat in flats if set(flat.names) <= model.keys()]
    known = {name for names in grouped for name in names}
    units = (*grouped, *((name,) for name in model if name not in known))
    return PartTensors(model, {}, units, stored_bytes(model.values()), 0, flat=False)


def split_part(part: PartTensors) -> PartTensors:
    """The same part with every fused tensor as its three logical ones."""
    split = {ref.name: ref for stored in part.tensors.values() for ref in split_fused(stored)}
    return replace(part, tensors=split)


def stored_bytes(refs: Iterable[TensorRef]) -> int:
    """How many different bytes of files `refs` mean: views of the same bytes count once."""
    return sum(end - start for start, end in _merged(refs))


def _merged(refs: Iterable[TensorRef]) -> Iterator[tuple[int, int]]:
    spans = sorted(
        (piece.path, piece.offset, piece.offset + piece.length)
        for ref in refs
        for piece in ref.ranges
    )
    path, end = "", 0
    for at, start, stop in spans:
        begin = max(start, end) if at == path else start
        if begin < stop:
            yield begin, stop
        path, end = at, max(end, stop) if at == path else stop
