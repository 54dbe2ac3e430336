"""Hugging Face's OPT: a folder of safetensors with `config.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from unshard.architectures.opt import OPTConfig, TensorRule, tensor_rules
from unshard.errors import CheckpointError, FormatError
from unshard.formats.safetensors import read_safetensors
from unshard.placement import finest_cut
from unshard.tensors import Chunk, Ledger, LogicalTensor, TensorIndex, TensorRef

TIED = "lm_head.weight"
MAX_COUNT = 10_000_000
T = TypeVar("T")


def read_config(path: Path) -> OPTConfig:
    """The model's shape from `config.json`.

    Raises:
        CheckpointError: there is no such file, or it describes no OPT model.
        FormatError: it is not the JSON object that it should be.
    """
    if not path.is_file():
        raise CheckpointError(f"{path.parent}: safetensors without config.json")
    try:
        said = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise FormatError(path, "is not valid JSON") from None
    if not isinstance(said, dict) or said.get("model_type") != "opt":
        raise CheckpointError(f"{path}: does not describe an OPT model (model_type is not 'opt')")
    config = OPTConfig(
        num_layers=_count(path, said, "num_hidden_layers"),
        hidden_size=_count(path, said, "hidden_size"),
        num_heads=_count(path, said, "num_attention_heads"),
        ffn_dim=_count(path, said, "ffn_dim"),
        vocab_size=_count(path, said, "vocab_size"),
        max_positions=_count(path, said, "max_position_embeddings"),
        embedding_size=_count(
            path, {"word_embed_proj_dim": said.get("hidden_size"), **said}, "word_embed_proj_dim"
        ),
        pre_norm=_typed(path, said, "do_layer_norm_before", True),
        tied_embeddings=_typed(path, said, "tie_word_embeddings", True),
        activation=_typed(path, said, "activation_function", "relu"),
    )
    if config.hidden_size % config.num_heads:
        raise FormatError(
            path, f"{config.num_heads} heads do not divide a hidden size of {config.hidden_size}"
        )
    return config


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


def read_hugging_face(
    source: str, folder: Path, paths: Sequence[Path]
) -> tuple[OPTConfig, TensorIndex]:
    """Config and index of a safetensors checkpoint.

    Raises:
        CheckpointError: a tensor is missing, unknown, of a wrong shape, or stored twice.
    """
    config = read_config(folder / "config.json")
    stored: dict[str, TensorRef] = {}
    for path in paths:
        for name, ref in read_safetensors(path).items():
            full = name if name == TIED or name.startswith("model.") else f"model.{name}"
            if full in stored:
                raise CheckpointError(f"{path}: tensor {name} is also in another file")
            stored[full] = ref
    tied = stored.pop(TIED, None) if config.tied_embeddings else None
    if config.num_layers > len(stored):
        raise CheckpointError(f"{source}: has {len(stored)} tensors for {config.num_layers} layers")
    rules = {
        rule.hugging_face_name: rule
        for rule in tensor_rules(config).values()
        if rule.hugging_face_name is not None
    }
    for name in sorted(rules.keys() - stored.keys()):
        raise CheckpointError(
            f"{source}: tensor {name} is missing", hint="are all files of the index here?"
        )
    for name in sorted(stored.keys() - rules.keys()):
        raise CheckpointError(f"{source}: tensor {name} is not part of an OPT model")
    tensors = {
        rule.name: _logical(source, rule, stored[name], tied, config.num_heads)
        for name, rule in rules.items()
    }
    total = sum(ref.num_bytes for ref in (*stored.values(), *((tied,) if tied else ())))
    unique = sum(tensor.num_bytes for tensor in tensors.values())
    return config, TensorIndex(tensors, Ledger(total, unique, total - unique, padding_bytes=0))


def _logical(
    source: str, rule: TensorRule, ref: TensorRef, tied: TensorRef | None, num_heads: int
) -> LogicalTensor:
    if ref.shape != rule.shape:
        raise CheckpointError(
            f"{source}: tensor {ref.name} has shape {ref.shape}, not {rule.shape}"
        )
    replicas = (tied,) if tied is not None and rule.name == "decoder.embed_tokens.weight" else ()
    chunk = Chunk((0,) * len(rule.shape), ref)
    cut = finest_cut(rule.shape, rule.placement, num_heads)
    return LogicalTensor(rule.name, ref.dtype, rule.shape, (chunk,), replicas, cut)
