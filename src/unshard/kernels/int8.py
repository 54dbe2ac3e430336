"""Linear layers with 8-bit weights: a quarter of fp32's bytes to read for each token."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from unshard.kernels.library import compiled
from unshard.kernels.pages import use_large_pages

_OUTPUTS = 64  # side by side in the packed weight; `OUTPUTS` of native/job.h
_MOST_INPUTS = 65536  # beyond, 32-bit sums could overflow
_ROWS_AT_ONCE = 1024  # bounds the memory for packing


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(out, in) -> whole numbers from -127 to 127 (out, in) fp32 and their scales (out,) fp32.

    Symmetric, each output channel by its own largest weight.
    """
    rows = weight.float()
    scales = rows.abs().amax(1) / 127
    return (rows / scales.clamp_min(1e-30)[:, None]).round_(), scales


def rounded_to_int8(weight: Tensor) -> Tensor:
    """The values of `weight`'s 8-bit form, in its own dtype: the path without kernels."""
    rounded = torch.empty_like(weight)
    for first in range(0, weight.shape[0], _ROWS_AT_ONCE):
        rows = slice(first, first + _ROWS_AT_ONCE)
        numbers, scales = quantize(weight[rows])
        rounded[rows] = numbers * scales[:, None]
    return rounded


class _Weight(ctypes.Structure):
    """`Int8Weight` of native/job.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("packed", "scales", "bias")),
        ("in_features", ctypes.c_int64),
        ("out_features", ctypes.c_int64),
    )


@dataclass(frozen=True, slots=True)
class Int8Weight:
    """A quantised weight as the native kernel reads it.

    `packed` is (out / 64, in / 4, 64, 4) uint8, each whole number + 128, `scales` and `bias`
    (out,) fp32, all padded to full groups with what gives zeros.
    """

    packed: Tensor
    scales: Tensor
    bias: Tensor
    native: ctypes.Structure
    out_features: int


def fits(weight: Tensor) -> bool:
    """Whether the native kernel multiplies this weight."""
    return weight.device.type == "cpu" and weight.shape[1] <= _MOST_INPUTS


def pack(weight: Tensor, bias: Tensor | None) -> Int8Weight:
    """Quantise `weight` (out, in), some rows at a time, into the kernel's layout."""
    out_features, in_features = weight.shape
    groups, steps = -(-out_features // _OUTPUTS), -(-in_features // 4)
    packed = torch.empty(groups, steps, _OUTPUTS, 4, dtype=torch.uint8)
    use_large_pages(packed)
    scales, padded_bias = torch.zeros(2, groups * _OUTPUTS)
    for first in range(0, out_features, _ROWS_AT_ONCE):
        numbers, row_scales = quantize(weight[first : first + _ROWS_AT_ONCE])
        last = first + numbers.shape[0]
        scales[first:last] = row_scales
        numbers = torch.nn.functional.pad(
            numbers.add_(128).to(torch.uint8),
            (0, 4 * steps - in_features, 0, -numbers.shape[0] % _OUTPUTS),
            value=128,
        )
        target = packed[first // _OUTPUTS : -(-last // _OUTPUTS)]
        target.copy_(numbers.view(-1, _OUTPUTS, steps, 4).transpose(1, 2))
    if bias is not None:
        padded_bias[:out_features] = bias
    pointers = (packed.data_ptr(), scales.data_ptr(), padded_bias.data_ptr())
    native = _Weight(*pointers, in_features, out_features)
    return Int8Weight(packed, scales, padded_bias, native, out_features)


def linear(weight: Int8Weight, x: Tensor, *, relu: bool = False, wide: bool = True) -> Tensor:
    """x Wᵀ + b, then max(0, ·) if `relu`; (T, in) fp32 or bf16 -> (T, out) in the same dtype.

    Each row of x is rounded to whole numbers of its own scale, 16-bit ones if `wide` and else
    8-bit ones; sums are exact. A row's result does not depend on the other rows.

    Raises:
        MemoryError: there is none for the rounded rows.
    """
    library = compiled()
    x = x.contiguous()
    rows = x.shape[0]
    y = x.new_empty(rows, weight.out_features)
    failed = library.linear(
        library.number,
        torch.get_num_threads(),
        ctypes.addressof(weight.native),
        x.data_ptr(),
        y.data_ptr(),
        rows,
        x.dtype is torch.bfloat16,
        relu,
        2 if wide else 1,
    )
    if failed:
        raise MemoryError(f"no memory to round {rows} rows of {x.shape[1]} activations")
    return y
