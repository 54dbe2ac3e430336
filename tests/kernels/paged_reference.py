"""What the attention kernel has to say, in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from unshard.kernels.attention import BLOCK_ROWS


def torch_paged_attention(
    kvq: Tensor,
    cache: Tensor,
    block_tables: Tensor,
    query_starts: Tensor,
    context_lengths: Tensor,
    num_heads: int,
) -> Tensor:
    """`paged_attention` in plain PyTorch, one sequence after another."""
    starts, head_dim = query_starts.tolist(), cache.shape[4]
    out = kvq.new_empty(kvq.shape[0], num_heads * head_dim)
    for number, length in enumerate(context_lengths.tolist()):
        rows = kvq[starts[number] : starts[number + 1]].view(-1, 3, num_heads, head_dim)
        positions = torch.arange(length - rows.shape[0], length, device=kvq.device)
        blocks = block_tables[number, : -(-length // BLOCK_ROWS)].long()
        cache[blocks[positions // BLOCK_ROWS], :, :, positions % BLOCK_ROWS] = rows[:, :2].to(
            cache.dtype
        )
        past = cache[blocks].permute(1, 2, 0, 3, 4).reshape(2, num_heads, -1, head_dim)
        keys, values = past[:, :, :length].float()
        seen = torch.arange(length, device=kvq.device) <= positions[:, None]
        attended = F.scaled_dot_product_attention(
            rows[:, 2].transpose(0, 1).float(), keys, values, attn_mask=seen
        )
        out[starts[number] : starts[number + 1]] = attended.transpose(0, 1).flatten(1)
    return out
