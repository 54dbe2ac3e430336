"""Attention over a cache of blocks: each sequence's own length, nothing padded."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from unshard.kernels.library import compiled

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

    Raises:
        UsageError: the kernels are not compiled.
        ValueError: dtypes, or heads, that they do not compute (`suits`).
    """
    head_dim = cache.shape[4]
    if not ({kvq.dtype, cache.dtype} <= set(_DTYPES) and suits(head_dim, kvq.device)):
        raise ValueError(f"no kernel for {kvq.dtype}, {cache.dtype}, heads of {head_dim}")
    library = compiled()
    kvq = kvq.contiguous()
    out = kvq.new_empty(kvq.shape[0], num_heads * head_dim)
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


def suits(head_dim: int, device: torch.device) -> bool:
    """Whether the native kernel, where it is compiled, attends with such heads."""
    return device.type == "cpu" and head_dim % 16 == 0 and head_dim <= _MAX_HEAD_DIM
