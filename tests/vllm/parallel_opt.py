"""A rank's OPT that loads weights as vLLM's does: K, V and Q fused, slices taken by `narrow`."""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from torch import Tensor

from unshard.architectures.opt import OPTConfig, TensorRule, tensor_rules
from unshard.placement import Shard

FUSED = re.compile(r"\.([qkv])_proj\.")


class ParallelOPT:
    """Rank `rank` of `size`; parameters are fp32 and begin as NaN."""

    def __init__(self, config: OPTConfig, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size
        self.rules = {
            rule.hugging_face_name: rule
            for rule in tensor_rules(config).values()
            if rule.hugging_face_name
        }
        self.parameters: dict[str, Tensor] = {}
        for name, rule in self.rules.items():
            shape = list(rule.shape)
            if isinstance(rule.placement, Shard):
                shape[rule.placement.dim] //= size
            if FUSED.search(name):
                name = FUSED.sub(".qkv_proj.", name)
                shape[0] *= 3
            self.parameters[name] = torch.nn.Parameter(torch.full(shape, torch.nan), False)

    def named_parameters(self) -> Iterable[tuple[str, Tensor]]:
        return self.parameters.items()

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        loaded = set()
        for name, weight in weights:
            target, place = self._place(name)
            place.copy_(self._mine(self.rules[name], weight))
            loaded.add(target)
        return loaded

    def _place(self, name: str) -> tuple[str, Tensor]:
        found = FUSED.search(name)
        if found is None:
            return name, self.parameters[name].data
        target = FUSED.sub(".qkv_proj.", name)
        third = len(self.parameters[target]) // 3
        return target, self.parameters[target].data.narrow(0, "qkv".index(found[1]) * third, third)

    def _mine(self, rule: TensorRule, weight: Tensor) -> Tensor:
        assert tuple(weight.shape) == rule.shape
        if not isinstance(rule.placement, Shard):
            return weight
        length = weight.shape[rule.placement.dim] // self.size
        return weight.narrow(rule.placement.dim, self.rank * length, length)
