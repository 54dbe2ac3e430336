"""A synthetic OPT model of any shape, from a seed, and how metaseq names and splits it.

The values of a tensor depend on the seed and its canonical name alone: the same model in
any layout. Written down here and not taken from the code that reads, so that the two can
be compared.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from unshard.architectures.opt import OPTConfig
from unshard.dtypes import BFLOAT16, DType

Array = npt.NDArray[Any]
Split = Literal["rows", "columns", "whole", "fused"]

TINY = OPTConfig(
    num_layers=2,
    hidden_size=16,
    num_heads=4,
    ffn_dim=24,
    vocab_size=56,
    max_positions=11,
    embedding_size=16,
)
"""Small, and with real padding for most numbers of shards."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A tensor as the trainer has it, and how tensor parallelism splits it."""

    name: str
    shape: tuple[int, ...]
    split: Split

    def local_shape(self, tp_size: int) -> tuple[int, ...]:
        if self.split == "whole":
            return self.shape
        if self.split == "columns":
            return (self.shape[0], self.shape[1] // tp_size)
        return (self.shape[0] // tp_size, *self.shape[1:])

    def local(self, whole: Array, rank: int, size: int) -> Array:
        """The slice of `whole` that rank `rank` of `size` has."""
        match self.split:
            case "whole":
                return whole
            case "rows":
                return np.split(whole, size)[rank]
            case "columns":
                return np.split(whole, size, axis=1)[rank]
            case "fused":  # K, V and Q are each split by rows
                return np.concatenate([np.split(block, size)[rank] for block in np.split(whole, 3)])


def tiny_model(config: OPTConfig, dtype: DType, seed: int) -> dict[str, Array]:
    """The whole model: canonical name -> array in `dtype` (bf16 as its bits in uint16).

    metaseq's version buffer, always 3, is part of it.
    """
    parameters = [*before_layers(config), *after_layers(config)]
    for number in range(config.num_layers):
        parameters += layer(config, number, fused=False)
    model = {each.name: _random(each.name, each.shape, dtype, seed) for each in parameters}
    return model | {"decoder.version": rounded(np.array([3.0], np.float32), dtype)}


def _random(name: str, shape: tuple[int, ...], dtype: DType, seed: int) -> Array:
    random = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return rounded(random.standard_normal(shape, np.float32) * np.float32(0.05), dtype)


def rounded(values: npt.NDArray[np.float32], dtype: DType) -> Array:
    """fp32 values in `dtype`: nearest for fp16, cut off for bf16."""
    if dtype is BFLOAT16:
        return (values.view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(dtype.numpy)


def before_layers(config: OPTConfig) -> list[Parameter]:
    """The root's tensors that the trainer registers before the layers."""
    hidden, narrow = config.hidden_size, config.embedding_size
    tensors = [Parameter("decoder.embed_tokens.weight", (config.vocab_size, narrow), "rows")]
    if narrow != hidden:
        tensors.append(Parameter("decoder.project_in_dim.weight", (hidden, narrow), "whole"))
    positions = (config.max_positions + 2, hidden)
    return [*tensors, Parameter("decoder.embed_positions.weight", positions, "whole")]


def after_layers(config: OPTConfig) -> list[Parameter]:
    """The root's tensors that it registers after them."""
    hidden, narrow = config.hidden_size, config.embedding_size
    tensors: list[Parameter] = []
    if config.pre_norm:
        names = ("decoder.layer_norm.weight", "decoder.layer_norm.bias")
        tensors += [Parameter(name, (hidden,), "whole") for name in names]
    if narrow != hidden:
        tensors.append(Parameter("decoder.project_out_dim.weight", (narrow, hidden), "whole"))
    if not config.tied_embeddings:
        shape = (config.vocab_size, narrow)
        tensors.append(Parameter("decoder.output_projection.weight", shape, "rows"))
    return tensors


def layer(config: OPTConfig, number: int, *, fused: bool) -> list[Parameter]:
    """One layer's tensors in the order in which the trainer registers them."""
    hidden, ffn = config.hidden_size, config.ffn_dim
    projections: list[Parameter] = (
        [
            Parameter("self_attn.qkv_proj.weight", (3 * hidden, hidden), "fused"),
            Parameter("self_attn.qkv_proj.bias", (3 * hidden,), "fused"),
        ]
        if fused
        else [
            Parameter(f"self_attn.{letter}_proj.{part}", shape, "rows")
            for letter in "kvq"
            for part, shape in (("weight", (hidden, hidden)), ("bias", (hidden,)))
        ]
    )
    tensors = [
        *projections,
        Parameter("self_attn.out_proj.weight", (hidden, hidden), "columns"),
        Parameter("self_attn.out_proj.bias", (hidden,), "whole"),
        Parameter("self_attn_layer_norm.weight", (hidden,), "whole"),
        Parameter("self_attn_layer_norm.bias", (hidden,), "whole"),
        Parameter("fc1.weight", (ffn, hidden), "rows"),
        Parameter("fc1.bias", (ffn,), "rows"),
        Parameter("fc2.weight", (hidden, ffn), "columns"),
        Parameter("fc2.bias", (hidden,), "whole"),
        Parameter("final_layer_norm.weight", (hidden,), "whole"),
        Parameter("final_layer_norm.bias", (hidden,), "whole"),
    ]
    prefix = f"decoder.layers.{number}."
    return [Parameter(prefix + each.name, each.shape, each.split) for each in tensors]


def stored_values(model: Mapping[str, Array], name: str) -> Array:
    """The whole tensor that is stored as `name`: a fused one is K, V, Q end to end."""
    if ".qkv_proj." not in name:
        return model[name]
    return np.concatenate([model[name.replace("qkv_proj", f"{letter}_proj")] for letter in "kvq"])
