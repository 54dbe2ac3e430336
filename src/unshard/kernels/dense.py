"""Linear layers from the weight as it is in files."""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from unshard.kernels.library import compiled, kernels

_DTYPES = (torch.float32, torch.bfloat16)
ANY_ROWS = sys.maxsize
_MOST_ROWS = {
    "avx512bf16": (64, 64),
    "avx512": (64, 4),
    "avx2": (ANY_ROWS, ANY_ROWS),
    "portable": (1, 0),
}
"""Rows up to which each level beats oneDNN on the same row-major weight: in fp32, in bf16."""


def most_rows(weight: Tensor) -> int:
    """Up to how many rows `linear` is the fastest way to multiply `weight`; 0: never."""
    library = kernels()
    if library is None or weight.device.type != "cpu" or weight.dtype not in _DTYPES:
        return 0
    return _MOST_ROWS[library.level][weight.dtype is torch.bfloat16]


def linear(weight: Tensor, bias: Tensor | None, x: Tensor, *, relu: bool = False) -> Tensor:
    """x Wᵀ + b, then max(0, ·) if `relu`; (T, in) -> (T, out), sums in fp32.

    A row's result does not depend on the other rows, but for whether they are few or many: sums
    are in another order then.

    Args:
        weight: (out, in) fp32 or bf16, contiguous.
        bias: (out,) or None; like x of the weight's dtype.
        x: (T, in).
        relu: whether negative results become 0.
    """
    library = compiled()
    x = x.contiguous()
    out_features, in_features = weight.shape
    y = x.new_empty(x.shape[0], out_features)
    library.dense(
        library.number,
        torch.get_num_threads(),
        weight.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        x.data_ptr(),
        y.data_ptr(),
        x.shape[0],
        in_features,
        out_features,
        x.dtype is torch.bfloat16,
        relu,
    )
    return y
