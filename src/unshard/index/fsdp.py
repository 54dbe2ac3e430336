"""FSDP flat parameters: which bytes of which files are which tensor of one part.

fairscale's rule: a unit's tensors are laid end to end, row-major; rank f of F holds
elements [f*n, (f+1)*n) with n = ceil(total / F), filled with zeros at the end.
"""

from __future__ import annotations

from collections.abc import Sequence

from unshard.errors import CheckpointError
from unshard.index.part import PartFiles, PartTensors, RankFile, is_flat_parameter, stored_bytes
from unshard.index.shard_metadata import FlatParameter
from unshard.index.slices import cut
from unshard.tensors import TensorRef


def unflatten(part: PartFiles, flats: Sequence[FlatParameter]) -> PartTensors:
    """The tensors of a part whose files hold `flats`.

    Raises:
        CheckpointError: lengths, paddings or names of the ranks do not fit `flats`.
    """
    for rank in part.ranks[1:]:
        _refuse_other_metadata(part.first, rank)
    model = part.first.model
    tensors: dict[str, TensorRef] = {}
    units: list[tuple[str, ...]] = []
    padding_bytes = 0
    for number, flat in enumerate(flats):
        total = flat.num_elements
        refs = _slices(part, number, flat, total)
        tensors |= {ref.name: ref for ref in cut(refs, zip(flat.names, flat.shapes, strict=True))}
        units.append(flat.names)
        padded = refs[0].num_elements * len(refs)
        padding_bytes += (padded - total) * refs[0].dtype.itemsize_bytes
    copies = {}
    keys = {flat.key for flat in flats}
    for name in (name for name in model if name not in keys):
        if is_flat_parameter(name) or name in tensors:
            raise CheckpointError(f"{part.first.path}: shard_metadata does not mention {name}")
        tensors[name] = model[name]
        copies[name] = tuple(rank.model[name] for rank in part.ranks[1:])
        units.append((name,))
    total = sum(stored_bytes(rank.model.values()) for rank in part.ranks)
    return PartTensors(tensors, copies, tuple(units), total, padding_bytes, flat=True)


def _refuse_other_metadata(first: RankFile, rank: RankFile) -> None:
    ours, theirs = first.metadata, rank.metadata
    if (ours is None) != (theirs is None):
        raise CheckpointError(
            f"{rank.path}: {'has no' if theirs is None else 'has'} shard_metadata, unlike "
            f"{first.path}"
        )
    if ours is None or theirs is None or ours.flats is theirs.flats:
        return
    for one, two in zip(ours.flats, theirs.flats, strict=False):
        if one != two:
            raise CheckpointError(
                f"{rank.path}: {one.key}: shard_metadata differs from {first.path}"
            )
    raise CheckpointError(f"{rank.path}: shard_metadata differs from {first.path}")


def share(num_elements: int, fsdp_size: int) -> int:
    """How many elements of a flat parameter each rank holds, padding included."""
    return -(-num_elements // fsdp_size)


def padding_of(num_elements: int, rank: int, fsdp_size: int) -> int:
    """How many elements of rank `rank`'s share are padding."""
    each = share(num_elements, fsdp_size)
    return min(max((rank + 1) * each - num_elements, 0), each)


def misfit(part: PartFiles, flats: Sequence[FlatParameter]) -> str | None:
    """Where the lengths of a part's flat parameters are not those of `flats`, or None."""
    for flat in flats:
        total, size = flat.num_elements, len(part.ranks)
        found = part.first.model.get(flat.key)
        if found is None:
            return f"{flat.key} is missing"
        if found.shape != (share(total, size),):
            over = f" over {size} shards" if size > 1 else ""
            return (
                f"{flat.key} has {total} elements, but {found.num_elements * size}{over} are here"
            )
    return None


def _slices(part: PartFiles, number: int, flat: FlatParameter, total: int) -> list[TensorRef]:
    """What each rank holds of `flat`, which has `total` elements, checked."""
    expected = share(total, len(part.ranks))
    dtype = None
    refs = []
    for rank, file in enumerate(part.ranks):
        ref = file.model.get(flat.key)
        if ref is None:
            raise _wrong(file, flat, "is in shard_metadata, but not in the model")
        dtype = dtype or ref.dtype
        if ref.shape != (expected,) or ref.dtype != dtype:
            _refuse_missing_shards(part, flat, ref)
            raise _wrong(
                file, flat,
                f"has shape {ref.shape} and dtype {ref.dtype.name}; {total} elements over "
                f"{len(part.ranks)} shards make ({expected},)",
            )  # fmt: skip
        padding = padding_of(total, rank, len(part.ranks))
        said = file.metadata.paddings[number] if file.metadata else padding
        if said != padding:
            raise _wrong(
                file, flat,
                f"says {said} elements are padding; {len(part.ranks)} shards make {padding}",
            )  # fmt: skip
        refs.append(ref)
    return refs


def _refuse_missing_shards(part: PartFiles, flat: FlatParameter, ref: TensorRef) -> None:
    """Says so where the length is that of a share among more shards than are here."""
    total, found = flat.num_elements, ref.num_elements
    count = share(total, found) if found else 0
    if count > len(part.ranks) and ref.shape == (share(total, count),):
        here = f"{len(part.ranks)} {'is' if len(part.ranks) == 1 else 'are'} here"
        raise CheckpointError(
            f"{part.first.path}: {flat.key}: takes {count} FSDP shards of this length, but only "
            f"{here}",
            hint="name the folder (or a pattern) that holds all of them; `unshard verify` lists "
            "what is missing",
        )


def _wrong(file: RankFile, flat: FlatParameter, problem: str) -> CheckpointError:
    hint = "are all FSDP shards of this part here?"
    return CheckpointError(f"{file.path}: {flat.key}: {problem}", hint=hint)
