"""One layer of an OPT decoder, its norms and what fills its weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unshard.architectures.opt import OPTConfig
from unshard.kernels import norm
from unshard.kernels.embedding import Tables
from unshard.kernels.stack import DecoderStack, StackLayer
from unshard.models.attention import Attention
from unshard.models.linear import Form, Linear, Rounding, SideBySide
from unshard.parallel.group import Group

LAYER_NORM_EPS = 1e-5

Target = Tensor | Rounding
"""What a stored tensor fills: memory, or rows that are rounded as they come."""


class LayerNorm(NamedTuple):
    """(T, D) -> (T, D), normalised over D with eps 1e-5."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        if norm.suits(self.weight):
            return norm.layer_norm(x, *self)
        return torch.layer_norm(x, self.weight.shape, self.weight, self.bias, LAYER_NORM_EPS)


class DecoderLayer:
    """One layer; `kvq_proj` is the fused projection, its rows in metaseq's order K, V, Q.

    Of several ranks each has some of the heads and some of the FFN's inner columns. What it adds
    to `x` is a part of a sum, so the bias of the sum is rank 0's alone. Source: Megatron-LM,
    arXiv:1909.08053.
    """

    __slots__ = (
        "_group", "_pre_norm", "fc1", "fc2", "ffn_norm", "kvq_proj", "out_proj", "self_attn_norm",
    )  # fmt: skip

    def __init__(self, config: OPTConfig, form: Form, group: Group) -> None:
        hidden = config.hidden_size
        heads, ffn = hidden // group.size, config.ffn_dim // group.size
        first = group.rank == 0
        self._group = group
        self._pre_norm = config.pre_norm
        self.kvq_proj: Linear | SideBySide = Linear.empty(hidden, 3 * heads, form, bias=True)
        self.out_proj = Linear.empty(heads, hidden, form, bias=first)
        self.fc1 = Linear.empty(hidden, ffn, form, bias=True)
        self.fc2 = Linear.empty(ffn, hidden, form, bias=first)
        self.self_attn_norm = empty_norm(hidden, form)
        self.ffn_norm = empty_norm(hidden, form)

    def __call__(
        self, x: Tensor, layer: int, attention: Attention, kept: Tensor | None = None
    ) -> Tensor:
        """(T, D) -> (T, D), or (R, D) where only the rows `kept` (R,) are asked for; adds into `x`,
        which the caller gives up. Keys and values are every row's all the same."""
        attended = attention(layer, self.kvq_proj(self.self_attn_norm(x) if self._pre_norm else x))
        if kept is not None:
            x, attended = x[kept], attended[kept]
        x += self._group.sum(self.out_proj(attended))
        if self._pre_norm:
            x += self._fed_forward(self.ffn_norm(x))
            return x
        x = self.self_attn_norm(x)
        x += self._fed_forward(x)
        return self.ffn_norm(x)

    def _fed_forward(self, x: Tensor) -> Tensor:
        return self._group.sum(self.fc2(self.fc1.relu(x)))

    @property
    def is_whole(self) -> bool:
        """Whether it is no rank's part of a layer."""
        return self._group.size == 1

    def linears(self) -> tuple[Linear, ...]:
        kvq = self.kvq_proj
        first = kvq.linears if isinstance(kvq, SideBySide) else (kvq,)
        return *first, self.out_proj, self.fc1, self.fc2

    def tensors(self) -> list[Tensor]:
        """All memory of its weights."""
        matrices = [tensor for linear in self.linears() for tensor in linear.tensors()]
        return [*matrices, *self.self_attn_norm, *self.ffn_norm]

    def native(self) -> tuple[StackLayer, int] | None:
        """Once its linears are packed, where the kernels find its weights, and how many rows they
        compute with them; None where they do not."""
        found = [linear.native() for linear in self.linears()]
        linears = [each for each in found if each is not None]
        norms = self.self_attn_norm, self.ffn_norm
        if len(linears) < len(found) or not norm.suits(norms[0].weight):
            return None
        *kvq, out, fc1, fc2 = (linear for linear, _ in linears)
        first, second = (norm.native(*each) for each in norms)
        most_rows = min(most for _, most in linears)
        return StackLayer(first, second, kvq, out, fc1, fc2), most_rows

    def map_weights(self, mapped: Mapping[str, Tensor]) -> None:
        """As of `OPTModel`; by name within the layer."""
        kvq = [mapped.get(f"self_attn.{letter}_proj.weight") for letter in "kvq"]
        weights = [weight for weight in kvq if weight is not None]
        if len(weights) == len(kvq) and self.kvq_proj.bias is not None:
            self.kvq_proj = SideBySide(weights, self.kvq_proj.bias)
        others = {"self_attn.out_proj": self.out_proj, "fc1": self.fc1, "fc2": self.fc2}
        for name, linear in others.items():
            if (weight := mapped.get(f"{name}.weight")) is not None:
                linear.stay_in(weight)

    def weight_targets(self) -> Iterator[tuple[str, Target]]:
        """(name within the layer, what to fill)."""
        for names, linear in (
            (tuple(f"self_attn.{letter}_proj" for letter in "kvq"), self.kvq_proj),
            (("self_attn.out_proj",), self.out_proj),
            (("fc1",), self.fc1),
            (("fc2",), self.fc2),
        ):
            if isinstance(linear, SideBySide):
                weights = linear.weight_targets()
            else:
                weights = linear.weight_targets(len(names))
            for name, weight in zip(names, weights, strict=True):
                yield f"{name}.weight", weight
            if linear.bias is not None:
                for name, bias in zip(names, linear.bias.chunk(len(names)), strict=True):
                    yield f"{name}.bias", bias
        for name, each in (
            ("self_attn_layer_norm", self.self_attn_norm),
            ("final_layer_norm", self.ffn_norm),
        ):
            yield f"{name}.weight", each.weight
            yield f"{name}.bias", each.bias


def stack_of(
    layers: Sequence[DecoderLayer], last_norm: LayerNorm | None, tables: Tables | None
) -> DecoderStack | None:
    """All layers, packed, the norm behind them and, where there are some, the tables before them,
    for the kernels; None where these do not compute each of them, or of several ranks."""
    found = [layer.native() for layer in layers if layer.is_whole]
    native = [each for each in found if each is not None]
    if len(native) < len(layers):
        return None
    return DecoderStack(
        [layer for layer, _ in native],
        None if last_norm is None else norm.native(*last_norm),
        layers[0].self_attn_norm.weight.dtype,
        min(most for _, most in native),
        tables,
    )


def empty_norm(size: int, form: Form) -> LayerNorm:
    return LayerNorm(form.empty(size), form.empty(size))
