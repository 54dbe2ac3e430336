"""Synthetic Hugging Face OPT checkpoints: safetensors or `pytorch_model.bin`, `config.json`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from unshard.architectures.opt import OPTConfig
from unshard.dtypes import FLOAT16, DType
from unshard.formats.records import Global, PickledObject
from unshard.formats.safetensors import safetensors_header
from unshard.testing.tiny_archive import TinyArchive
from unshard.testing.tiny_model import TINY, Array, tiny_model

RENAMED = {
    "decoder.layer_norm.": "decoder.final_layer_norm.",
    "decoder.project_in_dim.": "decoder.project_in.",
    "decoder.project_out_dim.": "decoder.project_out.",
}


@dataclass(frozen=True, slots=True)
class HuggingFaceForm:
    """What varies between Hugging Face's OPT checkpoints."""

    dtype: DType = FLOAT16
    container: Literal["safetensors", "bin"] = "safetensors"
    num_files: int = 1
    """With more than one, an index file says which tensor is where."""
    prefix: Literal["model.", ""] = "model."
    """`OPTForCausalLM` saves names with it, `OPTModel` without."""
    output_copy: bool = False
    """Whether a tied `lm_head.weight` is stored too; in `.bin` it shares the storage."""


def write_tiny_hugging_face(
    directory: str | Path,
    config: OPTConfig = TINY,
    *,
    seed: int = 0,
    form: HuggingFaceForm | None = None,
) -> dict[str, Array]:
    """Writes weights, their index and `config.json` into `directory`.

    Returns the whole model, as `write_tiny_checkpoint`, without the version buffer, which
    Hugging Face does not have.
    """
    form = form or HuggingFaceForm()
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    model = tiny_model(config, form.dtype, seed)
    del model["decoder.version"]
    stored = {_renamed(name, form.prefix): values for name, values in model.items()}
    if form.output_copy:
        stored["lm_head.weight"] = model["decoder.embed_tokens.weight"]
    (directory / "config.json").write_text(json.dumps(_config(config)))
    _write_files(directory, form, stored)
    return model


def _renamed(name: str, prefix: str) -> str:
    if name == "decoder.output_projection.weight":
        return "lm_head.weight"
    for ours, theirs in RENAMED.items():
        name = name.replace(ours, theirs)
    return prefix + name


def _write_files(directory: Path, form: HuggingFaceForm, stored: Mapping[str, Array]) -> None:
    names = list(stored)
    length = math.ceil(len(names) / form.num_files)
    groups = [names[at : at + length] for at in range(0, len(names), length)]
    stem = "model" if form.container == "safetensors" else "pytorch_model"
    weight_map: dict[str, str] = {}
    for number, group in enumerate(groups, start=1):
        suffix = f"-{number:05d}-of-{len(groups):05d}" if len(groups) > 1 else ""
        path = directory / f"{stem}{suffix}.{form.container}"
        write = _write_safetensors if form.container == "safetensors" else _write_bin
        write(path, form.dtype, [(name, stored[name]) for name in group])
        weight_map |= dict.fromkeys(group, path.name)
    if len(groups) > 1:
        total = sum(values.nbytes for values in stored.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (directory / f"{stem}.{form.container}.index.json").write_text(json.dumps(index))


def _write_safetensors(path: Path, dtype: DType, tensors: Sequence[tuple[str, Array]]) -> None:
    header = safetensors_header(
        [(name, dtype, values.shape) for name, values in tensors], {"format": "pt"}
    )
    path.write_bytes(header + b"".join(values.tobytes() for _, values in tensors))


def _write_bin(path: Path, dtype: DType, tensors: Sequence[tuple[str, Array]]) -> None:
    """A bare state dict: an OrderedDict with the attribute that `state_dict()` gives it."""
    archive = TinyArchive()
    made: dict[int, PickledObject] = {}
    state = PickledObject(Global("collections", "OrderedDict"), ())
    for name, values in tensors:
        if id(values) not in made:
            made[id(values)] = archive.tensor(values, dtype)
        state.entries[name] = made[id(values)]
    state.has_state, state.state = True, {"_metadata": {"": {"version": 1}}}
    archive.write(path, state)


def _config(config: OPTConfig) -> dict[str, Any]:
    return {
        "architectures": ["OPTForCausalLM"],
        "model_type": "opt",
        "activation_function": config.activation,
        "do_layer_norm_before": config.pre_norm,
        "_remove_final_layer_norm": False,
        "enable_bias": True,
        "layer_norm_elementwise_affine": True,
        "ffn_dim": config.ffn_dim,
        "hidden_size": config.hidden_size,
        "max_position_embeddings": config.max_positions,
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "tie_word_embeddings": config.tied_embeddings,
        "vocab_size": config.vocab_size,
        "word_embed_proj_dim": config.embedding_size,
    }
