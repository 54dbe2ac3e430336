"""Attention of a step by one call per layer of a kernel that knows blocks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor

from unshard.engine.step import StepLayout


class PagedKernel(Protocol):
    """Computes what `kernels.attention.paged_attention` does, its arguments in this order."""

    def __call__(
        self,
        kvq: Tensor,
        cache: Tensor,
        block_tables: Tensor,
        query_starts: Tensor,
        context_lengths: Tensor,
        num_heads: int,
    ) -> Tensor: ...


class KernelAttention:
    """Attention of one step over `layers`, (num_blocks, 2, H, 16, head_dim) each; written to."""

    def __init__(self, kernel: PagedKernel, layers: Sequence[Tensor], layout: StepLayout) -> None:
        self._kernel = kernel
        self._layers = layers
        self._num_heads = layers[0].shape[2]
        longest = max(map(len, layout.tables))
        padded = [[*table, *[0] * (longest - len(table))] for table in layout.tables]
        starts = [0, *accumulate(layout.num_new)]
        self._tables, self._starts, self._lengths = (
            torch.tensor(values, dtype=torch.int32, device=layers[0].device)
            for values in (padded, starts, layout.context_lengths)
        )

    def __call__(self, layer: int, kvq: Tensor) -> Tensor:
        return self._kernel(
            kvq, self._layers[layer], self._tables, self._starts, self._lengths, self._num_heads
        )
