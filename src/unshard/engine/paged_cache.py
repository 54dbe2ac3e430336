"""Keys and values of all sequences, in blocks of a fixed number of tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from unshard.architectures.opt import OPTConfig
from unshard.engine.block_pool import BLOCK_TOKENS
from unshard.engine.block_table import num_blocks_for
from unshard.library.machines import free_memory_bytes

UNUSED_TOKENS = 1024
"""Tokens that nobody holds whose blocks may cost memory before it is known that they are of use."""


class PagedCache:
    """One tensor per layer, (num_blocks + 1, 2, num_heads, `BLOCK_TOKENS`, head_dim): K, then V.
    The last block is no sequence's: rows that only fill up a step write there.

    On a CPU memory is taken only as far as blocks were used.
    """

    def __init__(
        self, config: OPTConfig, num_blocks: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.num_blocks = num_blocks
        self.num_heads = config.num_heads
        self.dtype = dtype
        self.device = device
        shape = (num_blocks + 1, 2, config.num_heads, BLOCK_TOKENS, config.head_dim)
        self.layers = [zeros(shape, dtype, device) for _ in range(config.num_layers)]
        is_taken_when_used = device.type == "cpu"
        self.most_unused = UNUSED_TOKENS // BLOCK_TOKENS if is_taken_when_used else None
        """See `BlockPool`."""

    @property
    def spare_block(self) -> int:
        """The last one."""
        return self.num_blocks

    def wipe(self, blocks: Sequence[int]) -> None:
        """Zero `blocks`: a masked position is multiplied by 0, and 0 * NaN is NaN."""
        if blocks:
            for layer in self.layers:
                layer[list(blocks)] = 0


def default_cache_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """What to cache for a model that computes in `dtype`."""
    # torch's CPU attention with one query is several times slower in bf16 than in fp32.
    return torch.float32 if device.type == "cpu" else dtype


def num_blocks_for_batch(
    config: OPTConfig, max_batch: int, dtype: torch.dtype, device: torch.device
) -> int:
    """Blocks for `max_batch` sequences of full length, or what a quarter of the free memory
    holds if that is less; never less than one sequence needs."""
    block_bytes = 2 * config.num_layers * config.hidden_size * BLOCK_TOKENS * dtype.itemsize
    longest = num_blocks_for(config.max_positions)
    return max(longest, min(max_batch * longest, free_bytes(device) // 4 // block_bytes))


def free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_memory_bytes()


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros that on a CPU take memory as far as they are touched."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # numpy asks for zeroed pages, which cost nothing until used; torch writes the zeros.
    num_bytes = int(np.prod(shape)) * dtype.itemsize
    return torch.from_numpy(np.zeros(num_bytes, np.uint8)).view(dtype).view(shape)
