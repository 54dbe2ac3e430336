"""Attention of a step by kernels that know blocks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor

from unshard.engine.step import StepLayout
from unshard.models.attention import Attention


class PagedKernel(Protocol):
    """Makes what `kernels.attention.PagedAttention` is, its arguments in this order."""

    def __call__(
        self,
        caches: Sequence[Tensor],
        block_tables: Tensor,
        query_starts: Tensor,
        context_lengths: Tensor,
        /,
    ) -> Attention: ...


def kernel_attention(
    kernel: PagedKernel, caches: Sequence[Tensor], layout: StepLayout
) -> Attention:
    """Attention of one step over `caches`, (num_blocks, 2, H, 16, head_dim) each; written to."""
    longest = max(map(len, layout.tables))
    padded = [[*table, *[0] * (longest - len(table))] for table in layout.tables]
    starts = [0, *accumulate(layout.num_new)]
    device = caches[0].device
    return kernel(
        caches,
        *(
            torch.tensor(values, dtype=torch.int32, device=device)
            for values in (padded, starts, layout.context_lengths)
        ),
    )
