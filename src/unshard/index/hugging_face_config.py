"""Hugging Face's `config.json` of an OPT model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from unshard.architectures.opt import OPTConfig
from unshard.errors import CheckpointError, FormatError
from unshard.formats.json_object import read_json_object

MAX_COUNT = 10_000_000
T = TypeVar("T")


def read_config(path: Path) -> OPTConfig:
    """The model's shape from `config.json`.

    Raises:
        CheckpointError: there is no such file, or it describes no OPT model, or one that
            differs from every published OPT in more than its sizes.
        FormatError: it is not the JSON object that it should be.
    """
    if not path.is_file():
        raise CheckpointError(
            f"{path.parent}: holds tensors by name, as Hugging Face's files do, but no config.json",
            hint="put the model's config.json beside the weights",
        )
    said = read_json_object(path)
    if said.get("model_type") != "opt":
        raise CheckpointError(f"{path}: does not describe an OPT model (model_type is not 'opt')")
    pre_norm = _typed(path, said, "do_layer_norm_before", True)
    _refuse_unsupported(path, said, pre_norm)
    hidden = _count(path, said, "hidden_size")
    embedding = said.get("word_embed_proj_dim")
    config = OPTConfig(
        num_layers=_count(path, said, "num_hidden_layers"),
        hidden_size=hidden,
        num_heads=_count(path, said, "num_attention_heads"),
        ffn_dim=_count(path, said, "ffn_dim"),
        vocab_size=_count(path, said, "vocab_size"),
        max_positions=_count(path, said, "max_position_embeddings"),
        embedding_size=hidden if embedding is None else _count(path, said, "word_embed_proj_dim"),
        pre_norm=pre_norm,
        tied_embeddings=_typed(path, said, "tie_word_embeddings", True),
        activation=_typed(path, said, "activation_function", "relu"),
    )
    if config.hidden_size % config.num_heads:
        raise FormatError(
            path, f"{config.num_heads} heads do not divide a hidden size of {config.hidden_size}"
        )
    return config


def _refuse_unsupported(path: Path, said: Mapping[str, Any], pre_norm: bool) -> None:
    problem = None
    if not _typed(path, said, "enable_bias", True):
        problem = "linear layers without biases (enable_bias is false)"
    elif not _typed(path, said, "layer_norm_elementwise_affine", True):
        problem = "layer norms without weights (layer_norm_elementwise_affine is false)"
    elif pre_norm and _typed(path, said, "_remove_final_layer_norm", False):
        problem = "no last layer norm (_remove_final_layer_norm is true)"
    if problem is not None:
        raise CheckpointError(f"{path}: describes a model with {problem}, which no OPT model has")


def _typed(path: Path, said: Mapping[str, Any], key: str, default: T) -> T:
    value = said.get(key, default)
    if type(value) is not type(default):
        raise FormatError(path, f"{key} is not a {type(default).__name__}")
    return value


def _count(path: Path, said: Mapping[str, Any], key: str) -> int:
    value = said.get(key)
    if type(value) is not int or not 0 < value <= MAX_COUNT:
        raise FormatError(path, f"{key} is no number between 1 and {MAX_COUNT}")
    return value
