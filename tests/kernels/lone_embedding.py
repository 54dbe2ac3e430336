"""A stack without layers: it looks rows up and adds them."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from unshard.kernels import attention, embedding, stack
from unshard.kernels.library import Library


def embed(
    level: Library, tokens: Tensor, places: Tensor, ids: Tensor, positions: Tensor, x: Tensor
) -> int:
    """`x` becomes rows of `tokens` and of `places`, added; how the call ended."""
    job = stack._Job(
        attention=attention.Job(heads=1, head_dim=16),
        tables=embedding.native(tokens, places),
        ids=ids.data_ptr(),
        positions=positions.data_ptr(),
        x=x.data_ptr(),
        rows=len(x),
        hidden=x.shape[1],
        is_bf16=x.dtype is torch.bfloat16,
    )
    ended: int = level.stack(level.number, 1, ctypes.addressof(job))
    return ended
