"""Elements as torch tensors: imported when somebody asks for one, as torch is an extra."""

from __future__ import annotations

import torch

from unshard.dtypes import DType
from unshard.errors import UsageError
from unshard.execute.model_sink import TORCH_DTYPES
from unshard.library.read import Bits


def from_bits(bits: Bits, dtype: DType) -> torch.Tensor:
    """A CPU tensor of `dtype` over the memory of `bits`.

    Raises:
        UsageError: torch does not compute with `dtype`.
    """
    if dtype not in TORCH_DTYPES:
        raise UsageError(f"no torch tensor is made of {dtype.name}", hint="use .numpy()")
    return torch.from_numpy(bits.view(f"i{dtype.itemsize_bytes}")).view(TORCH_DTYPES[dtype])
