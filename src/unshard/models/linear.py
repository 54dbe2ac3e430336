"""One linear layer, with its weight in the layout that the processor multiplies fastest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from unshard.kernels import dense
from unshard.kernels.pages import use_large_pages
from unshard.kernels.stack import MOST_ROWS, StackLinear
from unshard.models.rounded import (
    Int8Values,
    RoundedRows,
    RoundedWeight,
    empty,
    rounded_weight,
)

UNPADDED_ROWS = 32

WIDENED_ROWS = 16
"""From as many rows on torch multiplies bf16 slower than all of the weight is copied to fp32, where
oneDNN has no products of bf16 (no AVX-512)."""
WIDENED_NUMBERS = 1 << 21
"""Of a weight that are copied at once."""


@dataclass(frozen=True, slots=True)
class Form:
    """What a model's weights are, and where."""

    dtype: torch.dtype
    """Of what is not rounded."""
    device: torch.device
    matrix_bits: int | None = None
    """Of matrices that are rounded: 8 or 4."""
    is_away: bool = False
    """Whether they are in the host's memory, to be copied to `device` when they are needed."""

    def empty(self, *shape: int) -> Tensor:
        """Exact numbers without values."""
        return empty(shape, self.dtype, self.device, is_away=self.is_away)

    def empty_matrix(self, out_features: int, in_features: int) -> Tensor:
        """(out, in) exact without values, where reading all of it is fastest."""
        weight = self.empty(out_features, in_features)
        if weight.device.type == "cpu":
            use_large_pages(weight)
        return weight


class Linear:
    """y = x Wᵀ + b, W of shape (out, in) in `weight` until `pack`.

    With native kernels a weight stays as it was filled, row-major: few rows go to the kernel,
    many to oneDNN where it is faster, though it then loses some percent by laying the weight out
    at each call. Without them oneDNN multiplies from weights that it laid out itself, about twice
    as fast as from row-major ones for few rows; `pack` replaces the weight, so it is never held
    twice for longer than its own packing. A `rounded` weight is rounded as its rows come, so that
    it is never in memory as a whole before.
    """

    __slots__ = ("_native_rows", "_on_onednn", "_rounded", "_rows", "bias", "stays", "weight")

    def __init__(
        self, weight: Tensor, bias: Tensor | None = None, rounded: RoundedWeight | None = None
    ) -> None:
        """`weight` of one that is `rounded` tells its shape and dtype alone."""
        self.weight = weight
        self.bias = bias
        self._rounded = rounded
        self._rows: RoundedRows | None = rounded
        self._on_onednn = False
        self._native_rows = 0
        self.stays = False
        """Whether the weight is to stay where it is: the embedding table, part of a file, or
        memory that others are copied to or from."""

    @classmethod
    def empty(cls, in_features: int, out_features: int, form: Form, *, bias: bool) -> Linear:
        """A layer whose weight (out, in) and bias (out,) hold no values yet."""
        shape = out_features, in_features
        rounded = rounded_weight(
            *shape, form.matrix_bits, form.dtype, form.device, is_away=form.is_away
        )
        weight = form.empty_matrix(*shape) if rounded is None else form.empty(1).expand(shape)
        linear = cls(weight, form.empty(out_features) if bias else None, rounded)
        linear.stays = form.is_away
        if rounded is None and form.matrix_bits == 8:
            linear._rows = Int8Values(weight)
        return linear

    def weight_targets(
        self, count: int = 1, *, exact: Tensor | None = None
    ) -> list[Tensor | Rounding]:
        """What to fill with the weight, cut into `count` equal runs of rows; `exact` (out, in)
        takes the rows of one that is rounded, too, as they are."""
        if self._rows is None:
            return list(self.weight.chunk(count)) if count > 1 else [self.weight]
        num_rows, in_features = self.weight.shape
        share = num_rows // count
        shape = share, in_features
        return [Rounding(self._rows, at * share, shape, exact) for at in range(count)]

    def tensors(self) -> list[Tensor]:
        """All that it multiplies with."""
        weights = [self.weight] if self._rounded is None else self._rounded.tensors()
        return weights if self.bias is None else [*weights, self.bias]

    def pack(self) -> None:
        """Give the weight the layout that computes fastest, in which it may no longer be
        readable, unless it `stays`."""
        if self._rounded is not None:
            self._rounded.pack(self.bias)
            return
        self._on_onednn = onednn_multiplies(self.weight)
        self._native_rows = dense.most_rows(self.weight)
        if self._on_onednn and not self._native_rows and not self.stays:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight, None)  # noqa: SLF001

    def stay_in(self, weight: Tensor) -> None:
        """Multiply from `weight` (out, in), which is filled, and where it lies."""
        self.weight, self.stays = weight, True

    def __call__(self, x: Tensor) -> Tensor:
        """(T, in) -> (T, out)."""
        return self._apply(x, relu=False)

    def relu(self, x: Tensor) -> Tensor:
        """max(0, self(x)): (T, in) -> (T, out)."""
        return self._apply(x, relu=True)

    def native(self) -> tuple[StackLinear, int] | None:
        """Once packed, where the kernels find it, and how many rows they multiply by it; None
        where they do not."""
        out_features, in_features = self.weight.shape
        if self._rounded is not None:
            rounded = self._rounded.native()
            if rounded is None:
                return None
            return StackLinear(rounded, None, None, in_features, out_features), MOST_ROWS
        if not self._native_rows or not self.weight.is_contiguous():
            return None
        bias = None if self.bias is None else self.bias.data_ptr()
        weight = self.weight.data_ptr()
        return StackLinear(None, weight, bias, in_features, out_features), self._native_rows

    def _apply(self, x: Tensor, *, relu: bool) -> Tensor:
        if self._rounded is not None:
            return self._rounded.linear(x, relu=relu)
        if x.shape[0] <= self._native_rows:
            return dense.linear(self.weight, self.bias, x, relu=relu)
        if self._on_onednn:
            return self._on_rows_of_few_counts(x, relu=relu)
        if x.device.type == "cpu" and x.dtype is torch.bfloat16 and len(x) >= WIDENED_ROWS:
            y = self._widened(x)
        else:
            y = F.linear(x, self.weight, self.bias)
        return y.relu_() if relu else y

    def _widened(self, x: Tensor) -> Tensor:
        """By products of fp32, a part of the weight at a time; rounded once."""
        wide = x.float()
        parts = self.weight.split(max(1, WIDENED_NUMBERS // x.shape[1]))
        y = torch.cat([F.linear(wide, part.float()) for part in parts], 1)
        if self.bias is not None:
            y += self.bias
        return y.to(x.dtype)

    def _on_rows_of_few_counts(self, x: Tensor, *, relu: bool) -> Tensor:
        num_rows = len(x)
        more = padded_rows(num_rows) - num_rows
        padded = F.pad(x, (0, 0, 0, more)) if more else x
        y: Tensor = torch.ops.mkldnn._linear_pointwise(  # noqa: SLF001
            padded, self.weight, self.bias, "relu" if relu else "none", [], ""
        )
        return y[:num_rows]


class SideBySide:
    """Linears of one input as one layer, their outputs side by side: for weights that do not lie
    so. `bias` is that of the whole."""

    __slots__ = ("bias", "linears")

    def __init__(self, weights: Sequence[Tensor], bias: Tensor) -> None:
        self.bias = bias
        self.linears = tuple(map(Linear, weights, bias.chunk(len(weights))))
        for linear in self.linears:
            linear.stays = True

    def weight_targets(self) -> list[Tensor | Rounding]:
        """What to fill with the weight of each."""
        return [target for linear in self.linears for target in linear.weight_targets()]

    def __call__(self, x: Tensor) -> Tensor:
        """(T, in) -> (T, out)."""
        return torch.cat([linear(x) for linear in self.linears], 1)


@dataclass(frozen=True, slots=True)
class Rounding:
    """What a stored tensor fills where its rows are rounded as they come: those of a weight from
    `first` on."""

    rows: RoundedRows
    first: int
    shape: tuple[int, int]
    exact: Tensor | None
    """Takes the rows as they are: the embedding table that is also this weight."""

    def put(self, first: int, rows: Tensor) -> None:
        """`rows` (n, in) in any floating-point dtype become rows `[first, first + n)`."""
        if self.exact is not None:
            self.exact[first : first + len(rows)] = rows
        self.rows.put(self.first + first, rows)


def padded_rows(num_rows: int) -> int:
    """With how many rows oneDNN multiplies `num_rows`: the next multiple of 16, of 32 from 257 on,
    of 64 from 513 on and so forth; up to 32 rows, as many as there are.

    oneDNN compiles each shape anew and keeps the last 1024, each with 0.7 MB: prompts of all
    lengths made a server grow by hundreds of MB.
    """
    if num_rows <= UNPADDED_ROWS:
        return num_rows
    step = 16 << max(0, (num_rows - 1).bit_length() - 8)
    return -(-num_rows // step) * step


def onednn_multiplies(weight: Tensor) -> bool:
    """Whether this build and this processor have oneDNN linears for `weight`'s dtype."""
    ops = torch.ops.mkldnn
    built = hasattr(ops, "_linear_pointwise") and hasattr(ops, "_reorder_linear_weight")
    if weight.device.type != "cpu" or not built:
        return False
    if weight.dtype == torch.bfloat16:
        return bool(ops._is_mkldnn_bf16_supported())  # noqa: SLF001
    return weight.dtype == torch.float32
