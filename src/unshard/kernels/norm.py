"""Layer normalisation, each row by itself."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from unshard.kernels.library import compiled, kernels

_DTYPES = (torch.float32, torch.bfloat16)


class Weight(ctypes.Structure):
    """`NormWeight` of native/job.h."""

    _fields_ = (("weight", ctypes.c_void_p), ("bias", ctypes.c_void_p))


class _Job(ctypes.Structure):
    """`NormJob` of native/job.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "y", "z")),
        ("norm", Weight),
        ("size", ctypes.c_int64),
        ("is_bf16", ctypes.c_int32),
    )


def native(weight: Tensor, bias: Tensor) -> Weight:
    """Where the kernels find them; both have to stay."""
    return Weight(weight.data_ptr(), bias.data_ptr())


def suits(weight: Tensor) -> bool:
    """Whether the native kernel is compiled and normalises numbers like `weight`'s."""
    return weight.device.type == "cpu" and weight.dtype in _DTYPES and kernels() is not None


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(T, D) fp32 or bf16 -> (T, D), normalised over D with eps 1e-5, sums in fp32.

    A row's result does not depend on the other rows.

    Raises:
        UsageError: the kernels are not compiled.
    """
    library = compiled()
    x = x.contiguous()
    normed = torch.empty_like(x)
    job = _Job(
        x.data_ptr(),
        None,
        normed.data_ptr(),
        native(weight, bias),
        x.shape[1],
        x.dtype is torch.bfloat16,
    )
    library.norm(library.number, torch.get_num_threads(), ctypes.addressof(job), x.shape[0])
    return normed
