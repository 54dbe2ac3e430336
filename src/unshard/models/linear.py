"""One linear layer, with its weight in the layout that the processor multiplies fastest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from unshard.kernels import dense, int8
from unshard.kernels.library import kernels
from unshard.kernels.pages import use_large_pages


class Linear:
    """y = x Wᵀ + b, W of shape (out, in) in `weight` until `pack` or `quantize`.

    With native kernels a weight stays as it was filled, row-major: few rows go to the kernel,
    many to oneDNN, which then loses some percent by laying the weight out at each call. Without
    them oneDNN multiplies from weights that it laid out itself, about twice as fast as from
    row-major ones for few rows; `pack` replaces the weight, so it is never held twice for longer
    than its own packing. `quantize_rows` has the weight rounded to 8 bits as its rows come, so
    that it is never in memory as a whole before.
    """

    __slots__ = ("_int8", "_native_rows", "_on_onednn", "_rounds", "bias", "stays", "weight")

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight = weight
        self.bias = bias
        self._on_onednn = False
        self._native_rows = 0
        self._rounds = False
        self.stays = False
        """Whether the weight is to stay where it is: the embedding table, or part of a file."""
        self._int8: int8.Int8Weight | None = None

    @classmethod
    def empty(
        cls,
        in_features: int,
        out_features: int,
        *,
        bias: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> Linear:
        """A layer whose weight (out, in) and bias (out,) hold no values yet."""
        weight = empty_weight(out_features, in_features, dtype, device)
        return cls(weight, torch.empty(out_features, dtype=dtype, device=device) if bias else None)

    def weight_targets(self, count: int = 1) -> list[Tensor | RoundedRows]:
        """What to fill with the weight, cut into `count` equal runs of rows."""
        if not self._rounds:
            return list(self.weight.chunk(count)) if count > 1 else [self.weight]
        num_rows, in_features = self.weight.shape
        share = num_rows // count
        return [RoundedRows(self, at * share, (share, in_features)) for at in range(count)]

    def pack(self) -> None:
        """Give the weight the layout that computes fastest, in which it may no longer be
        readable, unless it `stays`."""
        if self._int8 is not None:
            int8.set_bias(self._int8, self.bias)
            return
        self._on_onednn = onednn_multiplies(self.weight)
        self._native_rows = dense.most_rows(self.weight)
        if self._on_onednn and not self._native_rows and not self.stays:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight, None)  # noqa: SLF001

    def stay_in(self, weight: Tensor) -> None:
        """Multiply from `weight` (out, in), which is filled, and where it lies."""
        self.weight, self.stays = weight, True

    def quantize_rows(self) -> None:
        """Have the rows that are to fill the weight rounded to 8 bits, each output channel by its
        own scale.

        Without native kernels the rounded values are multiplied in the weight's own dtype: the
        same up to rounding, with nothing saved.
        """
        self._rounds = True
        weight = self.weight
        out_features, in_features = weight.shape
        if kernels() is not None and int8.fits(weight):
            self._int8 = int8.empty(out_features, in_features)
            self.weight = weight.new_empty(1).expand_as(weight)  # no memory, but shape and dtype
        else:  # in memory of its own: an embedding table stays exact
            self.weight = empty_weight(out_features, in_features, weight.dtype, weight.device)

    def put_rounded(self, first: int, rows: Tensor) -> None:
        """`rows` (n, in), rounded, become rows `[first, first + n)` of the weight."""
        rows = rows.to(self.weight.dtype)
        if self._int8 is None:
            self.weight[first : first + len(rows)] = int8.rounded_to_int8(rows)
        else:
            int8.put(self._int8, first, rows)

    def __call__(self, x: Tensor) -> Tensor:
        """(T, in) -> (T, out)."""
        return self._apply(x, relu=False)

    def relu(self, x: Tensor) -> Tensor:
        """max(0, self(x)): (T, in) -> (T, out)."""
        return self._apply(x, relu=True)

    def _apply(self, x: Tensor, *, relu: bool) -> Tensor:
        if self._int8 is not None:
            return int8.linear(self._int8, x, relu=relu)
        if x.shape[0] <= self._native_rows:
            return dense.linear(self.weight, self.bias, x, relu=relu)
        if self._on_onednn:
            y: Tensor = torch.ops.mkldnn._linear_pointwise(  # noqa: SLF001
                x, self.weight, self.bias, "relu" if relu else "none", [], ""
            )
            return y
        y = F.linear(x, self.weight, self.bias)
        return y.relu_() if relu else y


class SideBySide:
    """Linears of one input as one layer, their outputs side by side: for weights that do not lie
    so. `bias` is that of the whole."""

    __slots__ = ("bias", "linears")

    def __init__(self, weights: Sequence[Tensor], bias: Tensor) -> None:
        self.bias = bias
        self.linears = tuple(map(Linear, weights, bias.chunk(len(weights))))
        for linear in self.linears:
            linear.stays = True

    def weight_targets(self) -> list[Tensor | RoundedRows]:
        """What to fill with the weight of each."""
        return [target for linear in self.linears for target in linear.weight_targets()]

    def __call__(self, x: Tensor) -> Tensor:
        """(T, in) -> (T, out)."""
        return torch.cat([linear(x) for linear in self.linears], 1)


@dataclass(frozen=True, slots=True)
class RoundedRows:
    """Rows of a weight, from `first` on, that are rounded to 8 bits as they are put."""

    linear: Linear
    first: int
    shape: tuple[int, ...]
    exact: Tensor | None = None
    """Takes the rows as they are, too: the embedding table that is also this weight."""

    def put(self, first: int, rows: Tensor) -> None:
        """`rows` (n, in) in any floating-point dtype become rows `[first, first + n)`."""
        if self.exact is not None:
            self.exact[first : first + len(rows)] = rows
        self.linear.put_rounded(self.first + first, rows)


def empty_weight(
    out_features: int, in_features: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """(out, in) without values, where reading all of it is fastest."""
    weight = torch.empty(out_features, in_features, dtype=dtype, device=device)
    if device.type == "cpu":
        use_large_pages(weight)
    return weight


def onednn_multiplies(weight: Tensor) -> bool:
    """Whether this build and this processor have oneDNN linears for `weight`'s dtype."""
    ops = torch.ops.mkldnn
    built = hasattr(ops, "_linear_pointwise") and hasattr(ops, "_reorder_linear_weight")
    if weight.device.type != "cpu" or not built:
        return False
    if weight.dtype == torch.bfloat16:
        return bool(ops._is_mkldnn_bf16_supported())  # noqa: SLF001
    return weight.dtype == torch.float32
