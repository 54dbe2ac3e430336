"""Attention over a cache of blocks: each sequence's own length, nothing padded."""

from __future__ import annotations

import ctypes

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from unshard.kernels.library import Library, kernels

BLOCK_ROWS = 16
_MAX_HEAD_DIM = 256
_DTYPES = (torch.float32, torch.bfloat16)


class _Job(ctypes.Structure):
    """`AttentionJob` of native/job.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("kvq", "cache", "out")),
        *((name, ctypes.c_void_p) for name in ("block_tables", "query_starts", "context_lengths")),
        *((name, ctypes.c_int64) for name in ("sequences", "max_blocks", "heads", "head_dim")),
        ("kvq_is_bf16", ctypes.c_int32),
        ("cache_is_bf16", ctypes.c_int32),
        ("task_heads", ctypes.c_int64),  # left to the library
    )


def paged_attention(
    kvq: Tensor,
    cache: Tensor,
    block_tables: Tensor,
    query_starts: Tensor,
    context_lengths: Tensor,
    num_heads: int,
) -> Tensor:
    """Store the new tokens' keys and values, then attend causally to each sequence's context.

    The token at position p of sequence s lies in row p % 16 of block block_tables[s, p // 16].
    Sums are fp32 whatever the dtypes. No two sequences may have new tokens in one block.

    Args:
        kvq: (T, 3D) fp32 or bf16, a row [K | V | Q] for each new token, sequence by sequence.
        cache: (num_blocks, 2, num_heads, 16, head_dim) fp32 or bf16, K then V; changed.
        block_tables: (S, max_blocks) int32.
        query_starts: (S + 1,) int32, the first row of each sequence, then T.
        context_lengths: (S,) int32, tokens of each sequence with the new ones.
        num_heads: D = num_heads * head_dim.

    Returns:
        (T, D) in kvq's dtype; softmax(q kᵀ / sqrt(head_dim)) v.
    """
    library = kernels()
    known = kvq.dtype in _DTYPES and cache.dtype in _DTYPES
    if library is None or not known or not suits(cache.shape[4], kvq.device):
        return torch_paged_attention(
            kvq, cache, block_tables, query_starts, context_lengths, num_heads
        )
    tables = (block_tables, query_starts, context_lengths)
    return _native(library, kvq, cache, tables, num_heads)


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


def suits(head_dim: int, device: torch.device) -> bool:
    """Whether the native kernel, where it is compiled, attends with such heads."""
    return device.type == "cpu" and head_dim % 16 == 0 and head_dim <= _MAX_HEAD_DIM


def _native(
    library: Library,
    kvq: Tensor,
    cache: Tensor,
    tables: tuple[Tensor, Tensor, Tensor],
    num_heads: int,
) -> Tensor:
    head_dim = cache.shape[4]
    kvq = kvq.contiguous()
    out = kvq.new_empty(kvq.shape[0], num_heads * head_dim)
    block_tables, query_starts, context_lengths = tables
    job = _Job(
        kvq.data_ptr(),
        cache.data_ptr(),
        out.data_ptr(),
        block_tables.data_ptr(),
        query_starts.data_ptr(),
        context_lengths.data_ptr(),
        block_tables.shape[0],
        block_tables.shape[1],
        num_heads,
        head_dim,
        kvq.dtype is torch.bfloat16,
        cache.dtype is torch.bfloat16,
    )
    library.attention(library.number, torch.get_num_threads(), ctypes.addressof(job))
    return out
