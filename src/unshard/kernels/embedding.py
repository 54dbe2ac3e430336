"""Rows of two tables, added: what goes into the first layer of a stack."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

_FORMATS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""Of a table of tokens, as in native/job.h."""


class Tables(ctypes.Structure):
    """`EmbeddingTables` of native/job.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("tokens", "places")),
        *((name, ctypes.c_int64) for name in ("num_tokens", "num_places", "tokens_format")),
    )


def native(tokens: Tensor, places: Tensor) -> Tables | None:
    """Where the kernels find (V, D) and (P, D), which have to stay; the sums of their rows are of
    `places`' dtype. None where the kernels do not add such."""
    suits = places.dtype is torch.float32 or places.dtype is tokens.dtype is torch.bfloat16
    if not (suits and tokens.dtype in _FORMATS and tokens.shape[1] == places.shape[1]):
        return None
    if not (tokens.is_contiguous() and places.is_contiguous()):
        return None
    pointers = tokens.data_ptr(), places.data_ptr()
    return Tables(*pointers, len(tokens), len(places), _FORMATS[tokens.dtype])
