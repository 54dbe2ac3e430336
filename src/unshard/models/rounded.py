"""Weights that are rounded to few bits as their rows come."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from unshard.kernels import int4, int8
from unshard.kernels.library import kernels
from unshard.library.precisions import int4_group


class RoundedRows(Protocol):
    """Rows of a weight (out, in) that are rounded; threads may put different ones at once."""

    def put(self, first: int, rows: Tensor) -> None:
        """`rows` (n, in), in any floating-point dtype, become rows `[first, first + n)`."""


class RoundedWeight(RoundedRows, Protocol):
    """A weight that is multiplied as it is rounded."""

    def pack(self, bias: Tensor | None) -> None:
        """All rows are put; `bias` (out,), filled, is added to each product."""

    def linear(self, x: Tensor, *, relu: bool) -> Tensor:
        """(T, in) -> (T, out) in x's dtype."""

    def native(self) -> int | None:
        """Where the kernels find it; None where they do not multiply it."""

    def tensors(self) -> list[Tensor]:
        """All of its memory, the bias apart."""


@dataclass(frozen=True, slots=True)
class Int8Kernel:
    """8 bits, each output channel by its own scale, for the native kernel."""

    weight: int8.Int8Weight
    dtype: torch.dtype

    def put(self, first: int, rows: Tensor) -> None:
        int8.put(self.weight, first, rows.to(self.dtype))

    def pack(self, bias: Tensor | None) -> None:
        int8.set_bias(self.weight, bias)

    def linear(self, x: Tensor, *, relu: bool) -> Tensor:
        return int8.linear(self.weight, x, relu=relu)

    def native(self) -> int:
        return ctypes.addressof(self.weight.native)

    def tensors(self) -> list[Tensor]:
        return [self.weight.packed, self.weight.scales, self.weight.bias]


@dataclass(frozen=True, slots=True)
class Int8Values:
    """The same where there is no kernel: the values go to an exact weight. They are the same up
    to rounding, and nothing is saved."""

    weight: Tensor

    def put(self, first: int, rows: Tensor) -> None:
        values = int8.rounded_to_int8(rows.to(self.weight.dtype))
        self.weight[first : first + len(rows)] = values


@dataclass(slots=True)
class Int4Kernel:
    """4 bits, each group of a row by its own scale and centre, for PyTorch's kernels."""

    weight: int4.Int4Weight
    dtype: torch.dtype
    device: torch.device
    bias: Tensor | None = None

    def put(self, first: int, rows: Tensor) -> None:
        int4.put(self.weight, first, rows)

    def pack(self, bias: Tensor | None) -> None:
        self.bias = bias
        if self.dtype is torch.bfloat16:
            int4.pack(self.weight, self.device)

    def linear(self, x: Tensor, *, relu: bool) -> Tensor:
        return int4.linear(self.weight, self.bias, x, relu=relu)

    def native(self) -> None:
        """Its kernels are PyTorch's."""

    def tensors(self) -> list[Tensor]:
        return [self.weight.numbers, self.weight.scales]


def rounded_weight(
    out_features: int,
    in_features: int,
    bits: int | None,
    dtype: torch.dtype,
    device: torch.device,
    *,
    is_away: bool = False,
) -> RoundedWeight | None:
    """A weight without values, for `device`; None where `bits` are not multiplied as such."""
    if bits == 8 and kernels() is not None and int8.fits(in_features, device):
        return Int8Kernel(int8.empty(out_features, in_features), dtype)
    group = int4_group(in_features) if bits == 4 else None
    if group is None:
        return None
    octets = empty(int4.shape(out_features, in_features), torch.uint8, device, is_away=is_away)
    scales = empty(
        int4.scales_shape(out_features, in_features, group),
        torch.bfloat16,
        device,
        is_away=is_away,
    )
    return Int4Kernel(int4.empty(octets, scales, out_features), dtype, device)


def empty(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, *, is_away: bool
) -> Tensor:
    """Memory for `device`; of what `is_away` the host's, from which a GPU can fetch by itself."""
    if not is_away:
        return torch.empty(shape, dtype=dtype, device=device)
    return torch.empty(shape, dtype=dtype, pin_memory=device.type == "cuda")
