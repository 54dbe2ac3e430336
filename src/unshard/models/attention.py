"""Attention as the model sees it: a callable per step that knows which rows belong together.

The model multiplies all tokens of a step as one matrix of rows. Only attention needs to know
where one sequence ends and the next begins, and where their past is kept: that knowledge is
an `Attention` (`engine/kv_cache.py` has those with a past).
"""

from __future__ import annotations

from typing import Protocol

import torch.nn.functional as F  # noqa: N812
from torch import Tensor


class Attention(Protocol):
    """Attention over the rows of one step."""

    def __call__(self, layer: int, kvq: Tensor) -> Tensor:
        """Attended values of layer `layer`.

        Args:
            layer: number of the layer, from 0.
            kvq: (T, 3D), row = [K | V | Q] of one token; D = num_heads * head_dim.

        Returns:
            (T, D), the heads' outputs side by side; softmax(q kᵀ / sqrt(head_dim)) v.
        """


def causal_attention(kvq: Tensor, num_heads: int) -> Tensor:
    """Every row attends to itself and to the rows before it: (L, 3D) -> (L, D)."""
    length = kvq.shape[0]
    k, v, q = kvq.view(1, length, 3, num_heads, -1).permute(2, 0, 3, 1, 4)
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return out.transpose(1, 2).reshape(length, -1)
