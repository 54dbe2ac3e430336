"""The shape of the model, from the shapes of its tensors and what cfg says beyond them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from unshard.architectures.opt import KNOWN_HEADS, POSITION_OFFSET, OPTConfig
from unshard.errors import CheckpointError
from unshard.formats.records import as_mapping, as_scalar
from unshard.tensors import Shape

LAYER = re.compile(r"^decoder\.layers\.(\d{1,9})\.")


def derive_config(
    source: str, local: Mapping[str, Shape], tp_size: int, arguments: Mapping[str, Any]
) -> OPTConfig:
    """The config of the model whose local (per TP rank) tensors are `local`.

    `arguments` are the training arguments (`cfg["model"]`); shapes come first, and only
    what shapes cannot say, the number of heads and the activation, is taken from there.

    Raises:
        CheckpointError: a tensor that every OPT has is absent, or the heads are unknown.
    """

    def size(name: str, dim: int) -> int:
        shape = local.get(name)
        if shape is None or len(shape) <= dim:
            raise CheckpointError(
                f"{source}: has no tensor {name}, so it is no OPT model",
                hint="is this the right folder?",
            )
        return shape[dim]

    hidden = size("decoder.layers.0.self_attn_layer_norm.weight", 0)
    rows = size("decoder.layers.0.self_attn.k_proj.weight", 0)
    if rows * tp_size != hidden:
        raise CheckpointError(
            f"{source}: its tensors are split over {hidden / max(rows, 1):g} tensor-parallel "
            f"parts, but only {tp_size} found",
            hint="are all parts in this folder?",
        )
    num_layers = _num_layers(source, local)
    return OPTConfig(
        num_layers=num_layers,
        hidden_size=hidden,
        num_heads=_num_heads(source, arguments, num_layers, hidden),
        ffn_dim=size("decoder.layers.0.fc1.weight", 0) * tp_size,
        vocab_size=size("decoder.embed_tokens.weight", 0) * tp_size,
        max_positions=size("decoder.embed_positions.weight", 0) - POSITION_OFFSET,
        embedding_size=size("decoder.embed_tokens.weight", 1),
        pre_norm="decoder.layer_norm.weight" in local,
        tied_embeddings="decoder.output_projection.weight" not in local,
        activation=_activation(source, arguments),
    )


def _num_layers(source: str, names: Iterable[str]) -> int:
    layers = {int(match[1]) for match in map(LAYER.match, names) if match}
    num_layers = max(layers, default=0) + 1
    if num_layers != len(layers):
        raise CheckpointError(
            f"{source}: layers are numbered up to {num_layers - 1}, but {len(layers)} are here"
        )
    return num_layers


def _num_heads(source: str, arguments: Mapping[str, Any], num_layers: int, hidden: int) -> int:
    heads = as_scalar(arguments.get("decoder_attention_heads"))
    if heads is None:
        heads = KNOWN_HEADS.get((num_layers, hidden))
    if type(heads) is int and heads > 0 and hidden % heads == 0:
        return heads
    said = heads if type(heads) is int else f"a {type(heads).__name__}"
    raise CheckpointError(f"{source}: the number of attention heads is unknown (cfg says {said})")


def _activation(source: str, arguments: Mapping[str, Any]) -> str:
    if as_scalar(arguments.get("no_scale_embedding")) is False:
        raise CheckpointError(
            f"{source}: cfg says that embeddings are scaled (no_scale_embedding is False), which "
            "no OPT model's are"
        )
    activation = as_scalar(arguments.get("activation_fn")) or "relu"
    if not isinstance(activation, str):
        raise CheckpointError(f"{source}: cfg's activation_fn is no name")
    return activation


def training_arguments(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """The model's arguments in a checkpoint's metadata: `cfg.model`, or `args` of old files."""
    cfg = as_mapping(metadata.get("cfg"))
    model = as_mapping((cfg or {}).get("model"))
    return model or as_mapping(metadata.get("args")) or {}
