"""Attention over a cache of blocks: each sequence's own length, nothing padded."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unshard.kernels.library import compiled

BLOCK_ROWS = 16
_MAX_HEAD_DIM = 256
_DTYPES = (torch.float32, torch.bfloat16)


class Job(ctypes.Structure):
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
    job = _job(kvq.dtype, cache, block_tables, query_starts, context_lengths)
    job.heads = num_heads
    job.kvq, job.cache, job.out = kvq.data_ptr(), cache.data_ptr(), out.data_ptr()
    library.attention(library.number, torch.get_num_threads(), ctypes.addressof(job))
    return out


@dataclass(frozen=True, slots=True)
class PagedAttention:
    """`paged_attention` of one step, over the cache of whichever layer."""

    caches: Sequence[Tensor]
    """Of each layer (num_blocks, 2, H, 16, head_dim), all of one dtype; written to."""
    block_tables: Tensor
    query_starts: Tensor
    context_lengths: Tensor

    def __call__(self, layer: int, kvq: Tensor) -> Tensor:
        """(T, 3D) -> (T, D)."""
        cache = self.caches[layer]
        step = self.block_tables, self.query_starts, self.context_lengths
        return paged_attention(kvq, cache, *step, cache.shape[2])

    def job(self, dtype: torch.dtype) -> Job:
        """The same for the kernels, for rows of `dtype`: all but kvq, cache and out."""
        step = self.block_tables, self.query_starts, self.context_lengths
        return _job(dtype, self.caches[0], *step)


def _job(
    dtype: torch.dtype, cache: Tensor, block_tables: Tensor, starts: Tensor, lengths: Tensor
) -> Job:
    """For rows of `dtype` and caches like `cache`, without what differs from layer to layer."""
    return Job(
        block_tables=block_tables.data_ptr(),
        query_starts=starts.data_ptr(),
        context_lengths=lengths.data_ptr(),
        sequences=block_tables.shape[0],
        max_blocks=block_tables.shape[1],
        heads=cache.shape[2],
        head_dim=cache.shape[4],
        kvq_is_bf16=dtype is torch.bfloat16,
        cache_is_bf16=cache.dtype is torch.bfloat16,
    )


def suits(head_dim: int, device: torch.device) -> bool:
    """Whether the native kernel, where it is compiled, attends with such heads."""
    return device.type == "cpu" and head_dim % 16 == 0 and head_dim <= _MAX_HEAD_DIM
