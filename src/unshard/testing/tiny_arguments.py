"""A trainer's arguments in every form that checkpoints keep them in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from unshard.architectures.opt import OPTConfig
from unshard.formats.records import Global, PickledObject

ArgumentsForm = Literal["namespace", "dict", "dictconfig", "args", "absent"]
"""`cfg` as a dict with Namespaces, as dicts, or as an OmegaConf DictConfig; no `cfg` but
`args` as a Namespace, as fairseq had it; neither."""


def arguments_entries(
    form: ArgumentsForm, config: OPTConfig, tp_size: int, fused: bool
) -> dict[str, Any]:
    """The top-level entries that hold the model's arguments."""
    model = model_arguments(config, tp_size, fused)
    cfg = {"_name": None, "common": {"seed": 1, "fp16": True}}
    match form:
        case "namespace":
            return {"cfg": cfg | {"model": _namespace(model)}}
        case "dict":
            return {"cfg": cfg | {"model": model}}
        case "dictconfig":
            return {"cfg": _dictconfig(cfg | {"model": model, "task": "???"})}
        case "args":
            return {"args": _namespace(model)}
        case "absent":
            return {}


def model_arguments(config: OPTConfig, tp_size: int, fused: bool) -> dict[str, Any]:
    """What the command line said of the model."""
    name = "transformer_lm_megatron" if fused else "transformer_lm"
    return {
        "_name": name,
        "arch": name,
        "activation_fn": config.activation,
        "decoder_attention_heads": config.num_heads,
        "decoder_embed_dim": config.hidden_size,
        "decoder_ffn_embed_dim": config.ffn_dim,
        "decoder_input_dim": config.embedding_size,
        "decoder_layers": config.num_layers,
        "decoder_learned_pos": True,
        "decoder_normalize_before": config.pre_norm,
        "decoder_output_dim": config.embedding_size,
        "max_target_positions": config.max_positions,
        "model_parallel_size": tp_size,
        "no_scale_embedding": True,
        "share_decoder_input_output_embed": config.tied_embeddings,
        "tokens_per_sample": config.max_positions,
    }


def _namespace(values: Mapping[str, Any]) -> PickledObject:
    return _built(Global("argparse", "Namespace"), dict(values))


def _dictconfig(values: Mapping[str, Any]) -> PickledObject:
    """OmegaConf wraps every dict in a DictConfig and every value in a node."""
    content = {
        key: _dictconfig(value)
        if isinstance(value, dict)
        else _built(Global("omegaconf.nodes", "AnyNode"), {"_parent": None, "_val": value})
        for key, value in values.items()
    }
    state = {"_parent": None, "_content": content}
    return _built(Global("omegaconf.dictconfig", "DictConfig"), state)


def _built(kind: Global, state: dict[str, Any]) -> PickledObject:
    made = PickledObject(kind, (), by_new=True)
    made.has_state, made.state = True, state
    return made
