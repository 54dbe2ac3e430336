"""Hugging Face's OPT: a folder of safetensors with `config.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unshard.architectures.opt import OPTConfig, TensorRule, tensor_rules
from unshard.errors import CheckpointError, FormatError
from unshard.formats.safetensors import read_safetensors
from unshard.tensors import Chunk, Ledger, LogicalTensor, TensorIndex, TensorRef

TIED = "lm_head.weight"


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
    except ValueError:
        raise FormatError(path, "is not valid JSON") from None
    if not isinstance(said, dict) or said.get("model_type") != "opt":
        raise CheckpointError(f"{path}: does not describe an OPT model (model_type is not 'opt')")
    return OPTConfig(
        num_layers=_count(path, said, "num_hidden_layers"),
        hidden_size=_count(path, said, "hidden_size"),
        num_heads=_count(path, said, "num_attention_heads"),
        ffn_dim=_count(path, said, "ffn_dim"),
        vocab_size=_count(path, said, "vocab_size"),
        max_positions=_count(path, said, "max_position_embeddings"),
        embedding_size=said.get("word_embed_proj_dim") or _count(path, said, "hidden_size"),
        pre_norm=bool(said.get("do_layer_norm_before", True)),
        tied_embeddings=bool(said.get("tie_word_embeddings", True)),
        activation=str(said.get("activation_function", "relu")),
    )


def _count(path: Path, said: Mapping[str, Any], key: str) -> int:
    value = said.get(key)
    if type(value) is not int or value <= 0:
        raise FormatError(path, f"{key} is {value!r}, not a positive number")
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
        rule.name: _logical(source, rule, stored[name], tied) for name, rule in rules.items()
    }
    total = sum(ref.num_bytes for ref in (*stored.values(), *((tied,) if tied else ())))
    unique = sum(tensor.num_bytes for tensor in tensors.values())
    return config, TensorIndex(tensors, Ledger(total, unique, total - unique, padding_bytes=0))


def _logical(
    source: str, rule: TensorRule, ref: TensorRef, tied: TensorRef | None
) -> LogicalTensor:
    if ref.shape != rule.shape:
        raise CheckpointError(
            f"{source}: tensor {ref.name} has shape {ref.shape}, not {rule.shape}"
        )
    replicas = (tied,) if tied is not None and rule.name == "decoder.embed_tokens.weight" else ()
    chunk = Chunk((0,) * len(rule.shape), ref)
    return LogicalTensor(rule.name, ref.dtype, rule.shape, (chunk,), replicas)
