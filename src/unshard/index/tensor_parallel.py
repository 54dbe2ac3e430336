"""From the local tensors of every tensor-parallel rank to whole logical tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from unshard.architectures.opt import (
    EMBEDDING,
    VERSION_BUFFER,
    OPTConfig,
    TensorRule,
    tensor_rules,
)
from unshard.errors import CheckpointError
from unshard.index.output_projection import with_copies
from unshard.index.part import PartTensors
from unshard.placement import assembled, finest_cut, local_box
from unshard.tensors import Ledger, LogicalTensor, TensorIndex, TensorRef


def build_index(
    source: str,
    parts: Sequence[PartTensors],
    config: OPTConfig,
    embedding_copies: Sequence[TensorRef] = (),
) -> TensorIndex:
    """The index over all parts, whose tensors are logical ones, complete both ways.

    `embedding_copies` are the parts' stored copies of their token embeddings.

    Raises:
        CheckpointError: a tensor without a rule, a rule without a tensor, or a wrong shape.
    """
    rules = tensor_rules(config)
    for rank, part in enumerate(parts):
        where = f"{source}: part {rank}" if len(parts) > 1 else source
        for name in sorted(rules.keys() - part.tensors.keys() - {VERSION_BUFFER}):
            raise CheckpointError(f"{where}: tensor {name} is missing")
        for name in sorted(part.tensors.keys() - rules.keys()):
            raise CheckpointError(f"{where}: tensor {name} is not part of an OPT model")
    present = [rule for name, rule in rules.items() if name in parts[0].tensors]
    tensors = {rule.name: _assemble(source, rule, parts, config.num_heads) for rule in present}
    tensors[EMBEDDING] = with_copies(tensors[EMBEDDING], embedding_copies)
    index = TensorIndex(tensors, _ledger(tensors.values(), parts))
    _refuse_lost_bytes(source, index.ledger)
    return index


def _assemble(
    source: str, rule: TensorRule, parts: Sequence[PartTensors], num_heads: int
) -> LogicalTensor:
    refs, dtype = [], parts[0].tensors[rule.name].dtype
    for rank, part in enumerate(parts):
        ref = part.tensors.get(rule.name)
        _, sizes = local_box(rule.name, rule.shape, rule.placement, rank, len(parts))
        if ref is None or ref.shape != sizes or ref.dtype != dtype:
            found = f"{ref.dtype.name} {ref.shape}" if ref else "nothing"
            raise CheckpointError(
                f"{source}: tensor {rule.name} of part {rank} is {found}, not {dtype.name} {sizes}"
            )
        refs.append(ref)
    copies = [ref for part in parts for ref in part.copies.get(rule.name, ())]
    cut = finest_cut(rule.shape, rule.placement, num_heads)
    return assembled(rule.name, rule.shape, rule.placement, refs, copies, cut)


def _ledger(tensors: Iterable[LogicalTensor], parts: Sequence[PartTensors]) -> Ledger:
    known = list(tensors)
    return Ledger(
        stored_bytes=sum(part.stored_bytes for part in parts),
        unique_bytes=sum(tensor.num_bytes for tensor in known),
        replica_bytes=sum(ref.num_bytes for tensor in known for ref in tensor.replicas),
        padding_bytes=sum(part.padding_bytes for part in parts),
    )


def _refuse_lost_bytes(source: str, ledger: Ledger) -> None:
    """The accounts must balance: nothing stored may be left over or counted twice."""
    known = ledger.unique_bytes + ledger.replica_bytes + ledger.padding_bytes
    if known != ledger.stored_bytes:
        raise CheckpointError(
            f"{source}: {ledger.stored_bytes} bytes are stored, but tensors, copies and padding "
            f"make {known}"
        )
