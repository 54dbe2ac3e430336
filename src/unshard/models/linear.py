"""One linear layer, with its weight in the layout that the processor multiplies fastest."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from unshard.kernels import int8
from unshard.kernels.library import Library, kernels


class Linear:
    """y = x Wᵀ + b, W of shape (out, in) in `weight` until `pack`.

    On a CPU oneDNN multiplies from weights that it laid out itself, about twice as fast as
    from row-major ones for few rows (`F.linear` is memory-bound at half the bandwidth there).
    `pack` replaces the row-major weight, so a weight is never held twice for longer than its
    own packing. `quantize` rounds it to 8 bits, which the native kernels multiply.
    """

    __slots__ = ("_int8", "_on_onednn", "bias", "weight")

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight = weight
        self.bias = bias
        self._on_onednn = False
        self._int8: tuple[Library, int8.Int8Weight] | None = None

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
        weight = torch.empty(out_features, in_features, dtype=dtype, device=device)
        return cls(weight, torch.empty(out_features, dtype=dtype, device=device) if bias else None)

    def pack(self) -> None:
        """Give the weight to oneDNN's own layout; no-op where oneDNN cannot multiply it."""
        self.use_onednn()
        if self._on_onednn:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight, None)  # noqa: SLF001

    def quantize(self) -> None:
        """Round the weight to 8 bits, each output channel by its own scale, and pack it.

        Without native kernels the rounded values are multiplied in the weight's own dtype: the
        same up to rounding, with nothing saved.
        """
        library = kernels()
        if library is None or not int8.fits(self.weight):
            self.weight = int8.rounded_to_int8(self.weight)
            self.pack()
            return
        self._int8 = library, int8.pack(self.weight, self.bias)
        self.weight = self.weight.new_empty(0)

    def use_onednn(self) -> None:
        """Multiply with oneDNN from the row-major weight, which stays readable: for the output
        projection that is also the embedding table. Faster than `F.linear`, slower than packed."""
        self._on_onednn = onednn_multiplies(self.weight)

    def __call__(self, x: Tensor) -> Tensor:
        """(T, in) -> (T, out)."""
        if self._int8 is not None:
            return int8.linear(*self._int8, x)
        return self._apply(x, "none") if self._on_onednn else F.linear(x, self.weight, self.bias)

    def relu(self, x: Tensor) -> Tensor:
        """max(0, self(x)): (T, in) -> (T, out)."""
        if self._int8 is not None:
            return int8.linear(*self._int8, x, relu=True)
        if self._on_onednn:
            return self._apply(x, "relu")
        return F.linear(x, self.weight, self.bias).relu_()

    def _apply(self, x: Tensor, activation: str) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(  # noqa: SLF001
            x, self.weight, self.bias, activation, [], ""
        )
        return y


def onednn_multiplies(weight: Tensor) -> bool:
    """Whether this build and this processor have oneDNN linears for `weight`'s dtype."""
    ops = torch.ops.mkldnn
    built = hasattr(ops, "_linear_pointwise") and hasattr(ops, "_reorder_linear_weight")
    if weight.device.type != "cpu" or not built:
        return False
    if weight.dtype == torch.bfloat16:
        return bool(ops._is_mkldnn_bf16_supported())  # noqa: SLF001
    return weight.dtype == torch.float32
