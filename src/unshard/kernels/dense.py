"""Linear layers for few rows, from the weight as it is in files."""

from __future__ import annotations

import torch
from torch import Tensor

from unshard.kernels.library import Library


def linear(
    library: Library, weight: Tensor, bias: Tensor | None, x: Tensor, *, relu: bool = False
) -> Tensor:
    """x Wᵀ + b, then max(0, ·) if `relu`; (T, in) -> (T, out), sums in fp32.

    A row's result does not depend on the other rows.

    Args:
        library: the kernels.
        weight: (out, in) fp32 or bf16, contiguous.
        bias: (out,) or None; like x of the weight's dtype.
        x: (T, in).
        relu: whether negative results become 0.
    """
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
