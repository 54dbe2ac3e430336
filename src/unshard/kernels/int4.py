"""Linear layers with 4-bit weights, which PyTorch's own kernels multiply with bf16 rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from unshard.kernels.pages import use_large_pages

_CENTRE = 8  # the number that stands for a group's own centre
_OUTPUTS = 16  # the CPU's kernel takes multiples of them, the GPU's of 8
_ROWS_AT_ONCE = 64  # of a weight that is laid out: any kernel's tiles are whole in so many
_ELEMENTS_AT_ONCE = 1 << 20  # bounds the memory where the values are needed in 16 bits
_LEAST_CAPABILITY = (8, 0)  # of the GPU's kernel


@dataclass(slots=True)
class Int4Weight:
    """A weight (out, in) of whole numbers from 0 to 15, a scale and a centre for each `group` of
    a row: value = (number - 8) * scale + centre.

    Rows are padded to a multiple of 16. `numbers` is (rows, in / 2) uint8 until `pack`, the first
    of two in the upper bits; `scales` is (in / group, rows, 2) bf16, scale and centre.
    """

    numbers: Tensor
    scales: Tensor
    out_features: int
    group: int
    packed_for: str = ""
    """cpu or cuda, whose layout the numbers have; empty: that of rows, which no kernel takes."""


def shape(out_features: int, in_features: int) -> tuple[int, int]:
    """Of the numbers of a weight (out, in), two to an element."""
    return out_features + -out_features % _OUTPUTS, in_features // 2


def scales_shape(out_features: int, in_features: int, group: int) -> tuple[int, int, int]:
    """Of its scales and centres."""
    return in_features // group, shape(out_features, in_features)[0], 2


def empty(numbers: Tensor, scales: Tensor, out_features: int) -> Int4Weight:
    """A weight in this memory, of these shapes, whose rows have yet to be `put`."""
    if numbers.device.type == "cpu":
        use_large_pages(numbers)
    numbers[out_features:] = 0
    scales[:, out_features:] = 0
    return Int4Weight(numbers, scales, out_features, 2 * numbers.shape[1] // len(scales))


def quantize(rows: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """(n, in) -> whole numbers (n, in) uint8, and (n, in / group, 2) bf16, scale and centre.

    The least and the largest value of each group are 0 and 15, but for the rounding of scales.
    """
    grouped = rows.float().view(len(rows), -1, group)
    lowest, highest = torch.aminmax(grouped, dim=2, keepdim=True)
    scales = ((highest - lowest) / 15).bfloat16()
    centres = (lowest + _CENTRE * scales.float()).bfloat16()
    steps = (grouped - centres.float()) / scales.float().clamp_min(1e-30)
    numbers = steps.round_().add_(_CENTRE).clamp_(0, 15).to(torch.uint8)
    return numbers.flatten(1), torch.cat([scales, centres], 2)


def put(weight: Int4Weight, first: int, rows: Tensor) -> None:
    """Quantise `rows` (n, in), which become rows `[first, first + n)` of `weight`.

    Threads may put different rows at once.
    """
    last = first + len(rows)
    numbers, scales = quantize(rows, weight.group)
    weight.numbers[first:last] = numbers[:, ::2] << 4 | numbers[:, 1::2]
    weight.scales[:, first:last] = scales.transpose(0, 1)


def pack(weight: Int4Weight, device: torch.device) -> None:
    """Give the numbers the layout of `device`'s kernel, in the memory where they are, some rows
    at a time. The kernels multiply bf16; a GPU has one from compute capability 8.0 on."""
    kind = device.type
    if kind == "cuda" and torch.cuda.get_device_capability(device) < _LEAST_CAPABILITY:
        return
    for first, rows in _blocks(weight.numbers):
        there = rows.to(device)
        packed = _packed_for_cpu(there) if kind == "cpu" else _packed_for_cuda(there, weight.group)
        octets = packed.view(torch.uint8).view_as(rows)
        weight.numbers[first : first + len(rows)].copy_(octets)
    weight.packed_for = kind


def _packed_for_cpu(rows: Tensor) -> Tensor:
    numbers = _unpacked(rows).to(torch.int32)
    packed: Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu(numbers, 2)  # noqa: SLF001
    return packed


def _packed_for_cuda(rows: Tensor, group: int) -> Tensor:
    packed: Tensor = torch.ops.aten._convert_weight_to_int4pack(rows, group // 16)  # noqa: SLF001
    return packed


def linear(weight: Int4Weight, bias: Tensor | None, x: Tensor, *, relu: bool = False) -> Tensor:
    """x Wᵀ + b, then max(0, ·) if `relu`; (T, in) -> (T, out) in x's dtype, sums in fp32.

    Where the weight is packed x has to be bf16, and a row's result does not depend on the others;
    where it is not, the values are worked out each time.
    """
    y = _product(weight, x.contiguous())[:, : weight.out_features]
    if bias is not None:
        y = y + bias
    return y.relu_() if relu else y


def _product(weight: Int4Weight, x: Tensor) -> Tensor:
    """(T, in) -> (T, rows)."""
    numbers, scales, group = weight.numbers, weight.scales, weight.group
    ops = torch.ops.aten
    if weight.packed_for == "cpu":
        y: Tensor = ops._weight_int4pack_mm_for_cpu(x, numbers, group, scales)  # noqa: SLF001
    elif weight.packed_for == "cuda":
        tiles = numbers.view(torch.int32).view(len(numbers) // 8, -1, 32, group // 32)
        y = ops._weight_int4pack_mm(x, tiles, group, scales)  # noqa: SLF001
    else:
        y = torch.cat([F.linear(x, rows) for rows in values(weight, x.dtype)], 1)
    return y


def values(weight: Int4Weight, dtype: torch.dtype) -> Iterator[Tensor]:
    """Those of a weight that is not packed, some rows at a time."""
    for first, rows in _blocks(weight.numbers):
        scales = weight.scales[:, first : first + len(rows)].transpose(0, 1)
        yield _values(_unpacked(rows), scales).to(dtype)


def rounded_to_int4(rows: Tensor, group: int) -> Tensor:
    """The values of the rows' 4-bit form, in fp32."""
    return _values(*quantize(rows, group))


def _values(numbers: Tensor, scales: Tensor) -> Tensor:
    """(n, in) and (n, in / group, 2) -> (n, in) fp32."""
    grouped = numbers.float().view(*scales.shape[:2], -1) - _CENTRE
    scale, centre = scales[..., None].unbind(2)
    return (grouped * scale + centre).flatten(1)


def _unpacked(rows: Tensor) -> Tensor:
    """(n, in / 2), two numbers in each element, -> (n, in)."""
    return torch.stack([rows >> 4, rows & 15], 2).flatten(1)


def _blocks(numbers: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(first row, rows) that together take little memory to unpack."""
    step = max(1, _ELEMENTS_AT_ONCE // 2 // numbers.shape[1] // _ROWS_AT_ONCE) * _ROWS_AT_ONCE
    for first in range(0, len(numbers), step):
        yield first, numbers[first : first + step]
