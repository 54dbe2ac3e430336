"""The FSDP units of one tensor-parallel part as metaseq wraps them: the root, then each layer.

Names within a unit are in the order in which the trainer registers them. A buffer belongs to
no unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from unshard.architectures.opt import (
    VERSION_BUFFER,
    OPTConfig,
    TensorRule,
    tensor_rules,
)
from unshard.dtypes import DType
from unshard.errors import UsageError
from unshard.index.fused import fuse, logical_names
from unshard.placement import local_box
from unshard.plan.copy_plan import Box, TargetTensor
from unshard.plan.local_tensors import stacked

LAYERS = "decoder.layers."
FLAT_PARAMETER = "flat_param_0"


@dataclass(frozen=True, slots=True)
class Unit:
    """One FSDP unit: its place in the model (empty for the root) and its stored tensors."""

    path: str
    names: tuple[str, ...]

    @property
    def key(self) -> str:
        """The flat parameter's name in the state dict."""
        return f"{self.path}.{FLAT_PARAMETER}" if self.path else FLAT_PARAMETER

    @property
    def own_names(self) -> list[str]:
        """The tensors' names below `path`."""
        return [name.removeprefix(f"{self.path}.") for name in self.names]


@dataclass(frozen=True)
class TensorParallel:
    """How a model's tensors are split over `size` tensor-parallel parts.

    Raises:
        UsageError: they cannot be.
    """

    config: OPTConfig
    size: int
    fused: bool
    """Whether K, V and Q are one tensor."""

    def __post_init__(self) -> None:
        if self.size < 1 or self.config.num_heads % self.size:
            heads = range(1, self.config.num_heads + 1)
            fitting = ", ".join(str(n) for n in heads if self.config.num_heads % n == 0)
            raise UsageError(
                f"{self.size} tensor-parallel parts: the model has {self.config.num_heads} heads",
                hint=f"use {fitting}",
            )

    @cached_property
    def rules(self) -> dict[str, TensorRule]:
        """The table of the model's tensors."""
        return tensor_rules(self.config)

    def units(self) -> list[Unit]:
        """The units, root first."""
        names = (name for name in self.rules if name != VERSION_BUFFER)
        units: dict[str, list[str]] = {"": []}
        for name in fuse(names) if self.fused else names:
            path = ".".join(name.split(".")[:3]) if name.startswith(LAYERS) else ""
            units.setdefault(path, []).append(name)
        return [Unit(path, tuple(tensors)) for path, tensors in units.items()]

    def local(self, name: str, dtype: DType, rank: int, prefix: str = "") -> TargetTensor:
        """The stored tensor `name` of one rank, from sources whose names begin with `prefix`.

        Raises:
            CheckpointError: a dimension does not divide.
        """
        pieces = ((prefix + logical, self._box(logical, rank)) for logical in logical_names(name))
        return stacked(prefix + name, dtype, pieces)

    def _box(self, logical: str, rank: int) -> Box:
        rule = self.rules[logical]
        return Box(*local_box(logical, rule.shape, rule.placement, rank, self.size))
