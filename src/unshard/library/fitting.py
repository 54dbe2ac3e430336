"""Whether a model's weights fit machines, and how many tokens' keys and values beside them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from unshard.architectures.layers import split_layer
from unshard.architectures.opt import OPTConfig, TensorRule, tensor_rules, weight_names
from unshard.dtypes import BFLOAT16, FLOAT32
from unshard.library.machines import Machine
from unshard.placement import Shard, local_box

ROOMS = 2
"""Layers that have their place on a GPU beside those that stay in the host's memory."""
SCALE_GROUP = 128
"""Values of a quantised matrix that share a scale of 16 bits; in 4 bits a centre of 16, too."""


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """What the weights take: `matrix_bits` a value in the layers' matrices, scales included,
    and 16 bits in all that is not quantised, the embeddings above all."""

    name: str
    matrix_bits: float
    is_ours: bool = True
    """Whether unshard itself computes in it on a GPU."""


SIXTEEN_BIT = WeightFormat("16 bit", 16)
FORMATS = (
    SIXTEEN_BIT,
    WeightFormat("int8", 8 + 16 / SCALE_GROUP, is_ours=False),
    WeightFormat("int4", 4 + 32 / SCALE_GROUP),
)


@dataclass(frozen=True, slots=True)
class Fit:
    """One model on one machine in one format. Bytes are those of the fullest device."""

    machine: str
    weight_format: str
    num_devices: int
    """Of the machine's, as many as the model can be split over."""
    usable_bytes: int
    weight_bytes: int
    cache_bytes_per_token: int
    fits: bool
    """Whether the weights do, with the keys and values of one token at least."""
    cache_tokens: int
    """Whose keys and values fit beside the weights, of all sequences together; 0 or more."""
    cpu_offload_gb: int | None = None
    """The least with which `serve` fits all the same, with one sequence of full length; None where
    it need not, or cannot."""
    host_bytes: int | None = None
    """What all ranks together then keep in the host's memory."""


def fits(config: OPTConfig, machines: Iterable[Machine]) -> list[Fit]:
    """Every machine with every format that means anything on it: CPUs compute in 16 bits."""
    return [
        fit(config, machine, weight_format)
        for machine in machines
        for weight_format in FORMATS
        if weight_format is SIXTEEN_BIT or not machine.is_cpu
    ]


def fit(config: OPTConfig, machine: Machine, weight_format: WeightFormat) -> Fit:
    """`config` in `weight_format`, split over the devices of `machine` by tensor parallelism."""
    tp_size = largest_tp_size(config, machine.num_devices)
    itemsize_bytes = FLOAT32.itemsize_bytes if machine.is_cpu else BFLOAT16.itemsize_bytes
    weight_bytes = rank_weight_bytes(config, tp_size, weight_format)
    per_token = cache_bytes_per_token(config, itemsize_bytes) // tp_size
    room = (machine.usable_bytes - weight_bytes) // per_token
    found = Fit(
        machine.name,
        weight_format.name,
        tp_size,
        machine.usable_bytes,
        weight_bytes,
        per_token,
        fits=room > 0,
        cache_tokens=max(room, 0),
    )
    if found.fits or machine.is_cpu or not weight_format.is_ours:
        return found
    return _with_offload(found, config, weight_format)


def _with_offload(found: Fit, config: OPTConfig, weight_format: WeightFormat) -> Fit:
    """With as many layers in the host's memory as it takes, if that many are there."""
    layer_bytes = rank_layer_bytes(config, found.num_devices, weight_format)
    needed_bytes = found.weight_bytes + config.max_positions * found.cache_bytes_per_token
    number = ROOMS + math.ceil((needed_bytes - found.usable_bytes) / layer_bytes)
    if number > config.num_layers:
        return found
    gib = math.ceil(number * layer_bytes / (1 << 30))
    held = min(gib * (1 << 30) // layer_bytes, config.num_layers)
    return replace(found, cpu_offload_gb=gib, host_bytes=held * layer_bytes * found.num_devices)


def largest_tp_size(config: OPTConfig, num_devices: int) -> int:
    """The largest number of equal parts, at most `num_devices`, that the model splits into."""
    split = [
        rule.shape[rule.placement.dim]
        for rule in tensor_rules(config).values()
        if isinstance(rule.placement, Shard)
    ]
    common = math.gcd(config.num_heads, *split)
    return max(size for size in range(1, num_devices + 1) if common % size == 0)


def rank_weight_bytes(config: OPTConfig, tp_size: int, weight_format: WeightFormat) -> int:
    """What one of `tp_size` ranks holds of the weights; each holds as much.

    Raises:
        CheckpointError: a dimension does not divide by `tp_size`.
    """
    rules = tensor_rules(config)
    return _rank_bytes((rules[name] for name in weight_names(rules)), tp_size, weight_format)


def rank_layer_bytes(config: OPTConfig, tp_size: int, weight_format: WeightFormat) -> int:
    """What one of `tp_size` ranks holds of one layer."""
    first = (rule for rule in tensor_rules(config).values() if split_layer(rule.name)[0] == 0)
    return _rank_bytes(first, tp_size, weight_format)


def _rank_bytes(rules: Iterable[TensorRule], tp_size: int, weight_format: WeightFormat) -> int:
    bits = 0.0
    for rule in rules:
        _, sizes = local_box(rule.name, rule.shape, rule.placement, 0, tp_size)
        bits += math.prod(sizes) * (weight_format.matrix_bits if _is_matrix(rule) else 16)
    return math.ceil(bits / 8)


def cache_bytes_per_token(config: OPTConfig, itemsize_bytes: int) -> int:
    """Keys and values of one token in all layers."""
    return 2 * config.num_layers * config.hidden_size * itemsize_bytes


def _is_matrix(rule: TensorRule) -> bool:
    """Whether it is one of the layers' matrices, which alone are quantised."""
    return len(rule.shape) == 2 and split_layer(rule.name)[0] is not None
