"""The shape of the model, from the shapes of its tensors and what cfg says beyond them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from unshard.architectures.opt import (
    EMBEDDING,
    OUTPUT_PROJECTION,
    POSITION_OFFSET,
    OPTConfig,
    known_model,
)
from unshard.errors import CheckpointError
from unshard.index.arguments import FIELDS, ModelArguments
from unshard.tensors import Shape

LAYER = re.compile(r"^decoder\.layers\.(\d{1,9})\.")


def derive_config(
    source: str,
    local: Mapping[str, Shape],
    tp_size: int,
    arguments: ModelArguments,
) -> OPTConfig:
    """The config of the model whose local (per TP rank) tensors are `local`, K, V, Q apart.

    Shapes come first; from `arguments` comes only what shapes cannot say, the number of
    heads and the activation, or else from the table of published models. An output
    projection among `local` is taken for weights of its own.

    Raises:
        CheckpointError: a tensor that every OPT has is absent, the heads are unknown, or
            arguments and shapes contradict each other.
    """
    hidden = _size(source, local, "decoder.layers.0.self_attn_layer_norm.weight", 0)
    split = tensor_parallel_size(source, local)
    if split != tp_size:
        raise CheckpointError(
            f"{source}: its tensors are split over {split:g} tensor-parallel parts, but "
            f"{'only ' if tp_size < split else ''}{tp_size} found",
            hint="are all parts in this folder?",
        )
    num_layers = _num_layers(source, local)
    config = OPTConfig(
        num_layers=num_layers,
        hidden_size=hidden,
        num_heads=_num_heads(source, arguments, num_layers, hidden),
        ffn_dim=_size(source, local, "decoder.layers.0.fc1.weight", 0) * tp_size,
        vocab_size=_size(source, local, EMBEDDING, 0) * tp_size,
        max_positions=_size(source, local, "decoder.embed_positions.weight", 0) - POSITION_OFFSET,
        embedding_size=_size(source, local, EMBEDDING, 1),
        pre_norm=_pre_norm(source, local, num_layers, hidden, arguments),
        tied_embeddings=OUTPUT_PROJECTION not in local,
        activation=arguments.activation or "relu",
    )
    _refuse_contradiction(source, config, arguments)
    return config


def tensor_parallel_size(source: str, local: Mapping[str, Shape]) -> float:
    """Over how many parts tensors of these local shapes are split."""
    hidden = _size(source, local, "decoder.layers.0.self_attn_layer_norm.weight", 0)
    return hidden / max(_size(source, local, "decoder.layers.0.self_attn.k_proj.weight", 0), 1)


def _size(source: str, local: Mapping[str, Shape], name: str, dim: int) -> int:
    shape = local.get(name)
    if shape is None or len(shape) <= dim:
        raise CheckpointError(
            f"{source}: has no tensor {name}, so it is no OPT model",
            hint="is this the right folder?",
        )
    return shape[dim]


def _num_layers(source: str, names: Iterable[str]) -> int:
    layers = {int(match[1]) for match in map(LAYER.match, names) if match}
    num_layers = max(layers, default=0) + 1
    if num_layers != len(layers):
        raise CheckpointError(
            f"{source}: layers are numbered up to {num_layers - 1}, but {len(layers)} are here"
        )
    return num_layers


def _num_heads(source: str, arguments: ModelArguments, num_layers: int, hidden: int) -> int:
    heads, said = arguments.num_heads, f"cfg says {arguments.num_heads}"
    if heads is None:
        known = known_model(num_layers, hidden)
        if known is None:
            raise CheckpointError(
                f"{source}: the number of attention heads is unknown: no cfg says it, and no "
                f"published OPT has {num_layers} layers of width {hidden}"
            )
        heads, said = known[1].num_heads, f"{known[0]} has {known[1].num_heads}"
    if hidden % heads:
        raise CheckpointError(f"{source}: {said} attention heads, which do not divide {hidden}")
    return heads


def _pre_norm(
    source: str,
    local: Mapping[str, Shape],
    num_layers: int,
    hidden: int,
    arguments: ModelArguments,
) -> bool:
    """Pre-norm models end in a layer norm, post-norm ones (OPT-350M) have none.

    Tools that dropped `decoder.layer_norm` made models that talk nonsense (metaseq#136), so
    its absence alone does not make a post-norm model of one that was published as pre-norm.
    """
    if "decoder.layer_norm.weight" in local:
        return True
    known = known_model(num_layers, hidden)
    expected = arguments.pre_norm if arguments.pre_norm is not None else known and known[1].pre_norm
    if expected:
        who = "cfg says that layers are" if arguments.pre_norm else f"{known and known[0]} is"
        raise CheckpointError(
            f"{source}: tensor decoder.layer_norm.weight is missing, and {who} pre-norm",
            hint="a tool lost it; start from files that have it",
        )
    return False


def _refuse_contradiction(source: str, config: OPTConfig, arguments: ModelArguments) -> None:
    """Another model's cfg would lend its heads and activation to this one."""
    for field in ("num_layers", "hidden_size", "ffn_dim"):
        said, found = getattr(arguments, field), getattr(config, field)
        if said is not None and said != found:
            raise CheckpointError(
                f"{source}: cfg says {FIELDS[field]} is {said}, but the tensors make {found}",
                hint="is this another model's cfg?",
            )
