"""Linear layers with 8-bit weights: a quarter of fp32's bytes to read for each token."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from unshard.kernels.library import compiled
from unshard.kernels.pages import use_large_pages

_OUTPUTS = 64  # side by side in the packed weight; `OUTPUTS` of native/job.h
_MOST_INPUTS = 65536  # beyond, 32-bit sums could overflow
_ELEMENTS_AT_ONCE = 1 << 18  # bounds the memory for packing


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(out, in) -> whole numbers from -127 to 127 (out, in) fp32 and their scales (out,) fp32.

    Symmetric, each output channel by its own largest weight.
    """
    rows = weight.float()
    lowest, highest = torch.aminmax(rows, dim=1)
    scales = torch.maximum(-lowest, highest) / 127
    return (rows / scales.clamp_min(1e-30)[:, None]).round_(), scales


def rounded_to_int8(rows: Tensor) -> Tensor:
    """The values of the rows' 8-bit form, in their own dtype: the path without kernels."""
    numbers, scales = quantize(rows)
    return (numbers * scales[:, None]).to(rows.dtype)


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


def fits(in_features: int, device: torch.device) -> bool:
    """Whether the native kernel, where it is compiled, multiplies such weights."""
    return device.type == "cpu" and in_features <= _MOST_INPUTS


def empty(out_features: int, in_features: int) -> Int8Weight:
    """A weight whose rows have yet to be `put`; its bias is 0 until it is filled."""
    groups, steps = -(-out_features // _OUTPUTS), -(-in_features // 4)
    packed = torch.empty(groups, steps, _OUTPUTS, 4, dtype=torch.uint8)
    use_large_pages(packed)
    packed[-1, :, out_features - (groups - 1) * _OUTPUTS :] = 128
    packed[:, -1, :, in_features - (steps - 1) * 4 :] = 128
    scales, bias = torch.zeros(2, groups * _OUTPUTS)
    pointers = (packed.data_ptr(), scales.data_ptr(), bias.data_ptr())
    native = _Weight(*pointers, in_features, out_features)
    return Int8Weight(packed, scales, bias, native, out_features)


def put(weight: Int8Weight, first: int, rows: Tensor) -> None:
    """Quantise `rows` (n, in), which become rows `[first, first + n)` of `weight`.

    Threads may put different rows at once.
    """
    numbers, scales = quantize(rows)
    last = first + rows.shape[0]
    weight.scales[first:last] = scales
    octets = numbers.add_(128).to(torch.uint8)
    octets = torch.nn.functional.pad(octets, (0, -octets.shape[1] % 4), value=128)
    # Four inputs are one element: (groups, steps, 64) from (n, steps).
    target, source = weight.packed.view(torch.int32).squeeze(3), octets.view(torch.int32)
    for start in range(first - first % _OUTPUTS, last, _OUTPUTS):
        top, bottom = max(start, first), min(start + _OUTPUTS, last)
        lanes = target[start // _OUTPUTS, :, top - start : bottom - start]
        lanes.copy_(source[top - first : bottom - first].t())


def pack(weight: Tensor, bias: Tensor | None) -> Int8Weight:
    """Quantise `weight` (out, in), some rows at a time, into the kernel's layout."""
    packed = empty(*weight.shape)
    for first, rows in in_blocks(weight):
        put(packed, first, rows)
    set_bias(packed, bias)
    return packed


def in_blocks(weight: Tensor) -> Iterator[tuple[int, Tensor]]:
    """`weight` (out, in) as (first row, rows) that together take little memory to quantise."""
    step = max(_OUTPUTS, _ELEMENTS_AT_ONCE // weight.shape[1] // _OUTPUTS * _OUTPUTS)
    for first in range(0, weight.shape[0], step):
        yield first, weight[first : first + step]


def set_bias(weight: Int8Weight, bias: Tensor | None) -> None:
    """Add `bias` (out,) to the products; None is 0."""
    if bias is not None:
        weight.bias[: weight.out_features] = bias


def linear(weight: Int8Weight, x: Tensor, *, relu: bool = False) -> Tensor:
    """x Wᵀ + b, then max(0, ·) if `relu`; (T, in) fp32 or bf16 -> (T, out) in the same dtype.

    Each row of x is rounded to whole numbers of its own scale: 8-bit ones, and 16-bit ones for the
    few that are much larger; sums are exact. A row's result does not depend on the other rows.

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
    )
    if failed:
        raise MemoryError(f"no memory to round {rows} rows of {x.shape[1]} activations")
    return y
