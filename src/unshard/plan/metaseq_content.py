"""What a metaseq checkpoint file says beside its weights: cfg, metadata, training state.

A checkpoint that was metaseq's keeps what its files say. Any other gets the least that
metaseq's readers ask for, and nothing that is not known.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from unshard.architectures.opt import EMBEDDING, OUTPUT_PROJECTION, VERSION_BUFFER, OPTConfig
from unshard.formats.records import Global, PickledObject, as_mapping
from unshard.index.fsdp import padding_of
from unshard.plan.metaseq_model import LocalUnit
from unshard.plan.metaseq_units import FLAT_PARAMETER, TensorParallel

NUM_PARTS = "model_parallel_size"
ORDER = (
    "args", "cfg", "model", "criterion", "optimizer_history", "task_state", "extra_state",
    "last_optimizer_state", "shard_metadata",
)  # fmt: skip
"""Top-level keys as the trainer writes them."""


def in_order(content: Mapping[str, Any]) -> dict[str, Any]:
    """The entries in the trainer's order; unknown ones behind the known."""
    known = [key for key in ORDER if key in content]
    return {key: content[key] for key in (*known, *(key for key in content if key not in ORDER))}


def carried_entries(entries: Mapping[str, Any], num_parts: int) -> dict[str, Any]:
    """What a file's top level holds beside weights, shapes and optimizer, for `num_parts`."""
    written = ("model", "shard_metadata", "last_optimizer_state")
    kept = {key: value for key, value in entries.items() if key not in written}
    kept = copy.deepcopy(kept)
    set_num_parts(kept, num_parts, NUM_PARTS)
    return kept


def set_num_parts(entries: Mapping[str, Any], count: int, key: str) -> None:
    """Sets the number of parts in the training arguments, `cfg.model`, or `args` of old files;
    `key` is its name."""
    cfg = as_mapping(entries.get("cfg"))
    holder = entries.get("args") if cfg is None else cfg.get("model")
    arguments = as_mapping(holder)
    if not isinstance(arguments, dict):
        return
    node = arguments.get(key)
    if isinstance(node, PickledObject):
        if isinstance(node.state, dict) and "_val" in node.state:  # OmegaConf wraps the value
            node.state["_val"] = count
    elif node is not None or arguments is getattr(holder, "state", holder):
        arguments[key] = count


def minimal_entries(parallel: TensorParallel) -> dict[str, Any]:
    """The top level for a model of which only its shape is known."""
    return {
        "cfg": {"_name": None, "model": _namespace(_arguments(parallel))},
        "criterion": None,
        "optimizer_history": [],
        "task_state": {},
        "extra_state": {},
    }


def _arguments(parallel: TensorParallel) -> dict[str, Any]:
    config: OPTConfig = parallel.config
    arch = "transformer_lm_megatron" if parallel.fused else "transformer_lm"
    return {
        "_name": arch,
        "arch": arch,
        "activation_fn": config.activation,
        "decoder_embed_dim": config.hidden_size,
        "decoder_input_dim": config.embedding_size,
        "decoder_output_dim": config.embedding_size,
        "decoder_ffn_embed_dim": config.ffn_dim,
        "decoder_layers": config.num_layers,
        "decoder_attention_heads": config.num_heads,
        "decoder_normalize_before": config.pre_norm,
        "decoder_learned_pos": True,
        "no_scale_embedding": True,
        "share_decoder_input_output_embed": config.tied_embeddings,
        "max_target_positions": config.max_positions,
        "tokens_per_sample": config.max_positions,
        NUM_PARTS: parallel.size,
    }


def _namespace(attributes: dict[str, Any]) -> PickledObject:
    made = PickledObject(Global("argparse", "Namespace"), (), by_new=True)
    made.state, made.has_state = attributes, True
    return made


def shard_metadata(units: Sequence[LocalUnit], tied: bool, rank: int, count: int) -> dict[str, Any]:
    """`shard_metadata` of FSDP shard `rank` of `count` of one part."""
    entries = []
    for unit in units:
        flat = {
            "names": unit.unit.own_names,
            "shapes": [tensor.shape for tensor in unit.tensors],
            "numels": [tensor.num_elements for tensor in unit.tensors],
            "padding": padding_of(unit.num_elements, rank, count),
        }
        shared = tied and not unit.unit.path
        entries.append(
            {
                "fsdp_path": unit.unit.path,
                "params": {FLAT_PARAMETER: flat},
                "no_broadcast_optim_state": False,
                "shared_param_info": [(EMBEDDING, OUTPUT_PROJECTION)] if shared else [],
            }
        )
    return {"param_metadata": entries, "buffer_names": [VERSION_BUFFER]}
