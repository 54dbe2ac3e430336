"""FSDP units of files that have no `shard_metadata`: the releases of 2022 (OPT-125M to 30B).

Names and shapes follow from the architecture: cfg or a published model gives the sizes, the
order is that in which the trainer registers tensors, and the number of elements of every
flat parameter must come out exactly.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from unshard.architectures.opt import (
    EMBEDDING,
    KNOWN_MODELS,
    VERSION_BUFFER,
    OPTConfig,
    tensor_rules,
)
from unshard.errors import CheckpointError
from unshard.index.arguments import FIELDS, ModelArguments
from unshard.index.fsdp import misfit
from unshard.index.fused import fuse, stored_shape
from unshard.index.part import PartFiles, is_flat_parameter
from unshard.index.shard_metadata import FlatParameter

OWN_NAME = "flat_param_0"
UNIT_OF_LAYER = re.compile(rf"^decoder\.layers\.(\d{{1,9}})\.{OWN_NAME}$")
LAYERS = "decoder.layers."
BEFORE_LAYERS = (EMBEDDING, "decoder.project_in_dim.weight", "decoder.embed_positions.weight")
"""The root's tensors that the trainer registers before its layers."""
CFG = "cfg"
SEPARATE = "OPT-350M"
"""The one published model that is not model-parallel, so that K, V and Q are apart."""
MAX_LAYERS = 1000
"""More than any model that was flattened as one unit."""


def derive_flat_parameters(
    source: str, part: PartFiles, tp_size: int
) -> tuple[tuple[FlatParameter, ...], str]:
    """What the flat parameters of `part`, one of `tp_size`, hold, and what says so.

    Raises:
        CheckpointError: cfg says too little, or the numbers of elements do not come out; the
            message names the unit and both numbers.
    """
    wrapped = _num_wrapped_layers(part)
    problem = f"{source}: has flat parameters without shard_metadata, and no published OPT fits"
    for origin, config in _candidates(part, wrapped, tp_size):
        flats = _flat_parameters(config, _fused(origin, part.arguments), bool(wrapped), tp_size)
        mismatch = misfit(part, flats)
        if mismatch is None:
            return flats, _evidence(origin, config, part.arguments)
        if origin == CFG:
            problem = f"{part.first.path}: has no shard_metadata, and by cfg {mismatch}"
    raise CheckpointError(problem, hint="are all parts and shards here?")


def _evidence(origin: str, config: OPTConfig, arguments: ModelArguments) -> str:
    """A sentence on the names and shapes, and one on K, V and Q."""
    rest = (
        f" (its {config.max_positions} positions leave a vocabulary of {config.vocab_size})"
        if origin == CFG
        else ""
    )
    why = "every published OPT but 350M fuses them"
    if arguments.fused_qkv is not None:
        why = f"cfg's arch is {arguments.arch}"
    elif origin == SEPARATE:
        why = f"{SEPARATE} does not fuse them"
    return (
        f"shard_metadata is absent; names and shapes are those of {origin}, whose numbers of "
        f"elements come out exactly in every unit{rest}; K, V and Q are "
        f"{'fused' if _fused(origin, arguments) else 'separate'} because {why}"
    )


def _num_wrapped_layers(part: PartFiles) -> int:
    """How many layers are units of their own; 0 where the root holds everything.

    Raises:
        CheckpointError: the units are others than these.
    """
    keys = [name for name in part.first.model if is_flat_parameter(name)]
    layers = {int(match[1]) for match in map(UNIT_OF_LAYER.match, keys) if match}
    if OWN_NAME not in keys or len(layers) != len(keys) - 1 or layers != set(range(len(layers))):
        raise CheckpointError(
            f"{part.first.path}: has flat parameters without shard_metadata, and not one for the "
            "root and one for each layer"
        )
    return len(layers)


def _fused(origin: str, arguments: ModelArguments) -> bool:
    """Whether K, V and Q are one tensor, which no number tells: they add up the same."""
    return origin != SEPARATE if arguments.fused_qkv is None else arguments.fused_qkv


def _candidates(part: PartFiles, wrapped: int, tp_size: int) -> Iterator[tuple[str, OPTConfig]]:
    """Models that the files may hold, with who proposes each: published ones, then cfg's own."""
    said = part.arguments
    if wrapped and said.num_layers not in (None, wrapped):
        raise CheckpointError(
            f"{part.first.path}: cfg says decoder_layers is {said.num_layers}, but flat "
            f"parameters of {wrapped} layers are here"
        )
    for name, config in KNOWN_MODELS.items():
        as_deep = (wrapped or said.num_layers) in (None, config.num_layers)
        as_wide = said.hidden_size in (None, config.hidden_size)
        if as_deep and as_wide and config.vocab_size % tp_size == config.hidden_size % tp_size == 0:
            yield name, config
    if said.hidden_size is None:
        return
    num_layers = wrapped or _required(part, "num_layers")
    if num_layers > max(wrapped, MAX_LAYERS):
        raise CheckpointError(f"{part.first.path}: cfg says decoder_layers is {num_layers}")
    config = OPTConfig(
        num_layers=num_layers,
        hidden_size=said.hidden_size,
        num_heads=said.num_heads or 1,
        ffn_dim=_required(part, "ffn_dim"),
        vocab_size=0,
        max_positions=_required(part, "max_positions"),
        embedding_size=said.embedding_size or said.hidden_size,
        pre_norm=said.pre_norm is not False,
        tied_embeddings=said.tied_embeddings is not False,
    )
    yield CFG, _with_vocabulary(part, config, bool(wrapped), tp_size)


def _required(part: PartFiles, field: str) -> int:
    value = getattr(part.arguments, field)
    if type(value) is int:
        return value
    raise CheckpointError(
        f"{part.first.path}: has flat parameters without shard_metadata, and cfg does not say "
        f"{FIELDS[field]}"
    )


def _with_vocabulary(part: PartFiles, config: OPTConfig, wrapped: bool, tp_size: int) -> OPTConfig:
    """`config` with the vocabulary that fills the root unit: cfg never says how large it is."""
    root = _flat_parameters(config, True, wrapped, tp_size)[0]
    stored = sum(rank.model[OWN_NAME].num_elements for rank in part.ranks)
    row = config.embedding_size * (1 if config.tied_embeddings else 2)
    rows, rest = divmod(max(stored - root.num_elements, 0), row)
    if rest + row < len(part.ranks):
        raise CheckpointError(
            f"{part.first.path}: has no shard_metadata, and its vocabulary may be {rows * tp_size} "
            f"or fewer: {len(part.ranks)} shards hide it in their padding"
        )
    return replace(config, vocab_size=rows * tp_size)


def _flat_parameters(
    config: OPTConfig, fused: bool, wrapped: bool, tp_size: int
) -> tuple[FlatParameter, ...]:
    """The units of one of `tp_size` parts, in the trainer's order."""
    rules = tensor_rules(config)
    names = list(fuse(rules) if fused else rules)
    names.remove(VERSION_BUFFER)
    layers = [name for name in names if name.startswith(LAYERS)]
    root = [name for name in names if not name.startswith(LAYERS)]
    if wrapped:
        units = {"": root}
        for name in layers:
            units.setdefault(".".join(name.split(".", 3)[:3]), []).append(name)
    else:
        before = [name for name in root if name in BEFORE_LAYERS]
        units = {"": [*before, *layers, *root[len(before) :]]}
    return tuple(
        FlatParameter(
            path,
            OWN_NAME,
            tuple(name.removeprefix(f"{path}.") for name in unit),
            tuple(stored_shape(rules, name, tp_size) for name in unit),
        )
        for path, unit in units.items()
    )
