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
    num_sequences, longest = len(layout.tables), max(map(len, layout.tables))
    numbers: list[int] = []
    for table in layout.tables:
        numbers += table
        numbers += [0] * (longest - len(table))
    numbers += [0, *accumulate(layout.num_new), *layout.context_lengths]
    # One tensor: to make one costs as much as to compute a small layer norm.
    step = torch.tensor(numbers, dtype=torch.int32, device=caches[0].device)
    tables, starts, lengths = step.split(
        [num_sequences * longest, num_sequences + 1, num_sequences]
    )
    return kernel(caches, tables.view(num_sequences, longest), starts, lengths)
