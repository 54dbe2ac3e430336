"""Where each parameter lies in a raw metaseq checkpoint, and how it is split."""

from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor


class Division(Enum):
    """How tensor parallelism divides a parameter."""

    WHOLE = "replicated in every part"
    ROWS = "consecutive rows"
    COLUMNS = "consecutive columns"
    FUSED = "rows of each of the three stacked projections"


@dataclass(frozen=True)
class Unit:
    """One FSDP unit: the parameters that share a flat tensor."""

    path: str
    parameters: tuple[tuple[str, Division], ...]

    def full_name(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name


def root_unit() -> Unit:
    return Unit(
        "",
        (
            ("decoder.embed_tokens.weight", Division.ROWS),
            ("decoder.embed_positions.weight", Division.WHOLE),
            ("decoder.layer_norm.weight", Division.WHOLE),
            ("decoder.layer_norm.bias", Division.WHOLE),
        ),
    )


def layer_unit(layer: int) -> Unit:
    return Unit(
        f"decoder.layers.{layer}",
        (
            ("self_attn.qkv_proj.weight", Division.FUSED),
            ("self_attn.qkv_proj.bias", Division.FUSED),
            ("self_attn.out_proj.weight", Division.COLUMNS),
            ("self_attn.out_proj.bias", Division.WHOLE),
            ("self_attn_layer_norm.weight", Division.WHOLE),
            ("self_attn_layer_norm.bias", Division.WHOLE),
            ("fc1.weight", Division.ROWS),
            ("fc1.bias", Division.ROWS),
            ("fc2.weight", Division.COLUMNS),
            ("fc2.bias", Division.WHOLE),
            ("final_layer_norm.weight", Division.WHOLE),
            ("final_layer_norm.bias", Division.WHOLE),
        ),
    )


def units(layers: int) -> list[Unit]:
    """The root unit, then one per layer."""
    return [root_unit(), *(layer_unit(layer) for layer in range(layers))]


def part_of(whole: Tensor, division: Division, part: int, parts: int) -> Tensor:
    """The piece of a parameter that one tensor-parallel part holds."""
    if division is Division.ROWS:
        return whole.chunk(parts, 0)[part]
    if division is Division.COLUMNS:
        return whole.chunk(parts, 1)[part]
    if division is Division.FUSED:
        return torch.cat([block.chunk(parts, 0)[part] for block in whole.chunk(3, 0)])
    return whole
