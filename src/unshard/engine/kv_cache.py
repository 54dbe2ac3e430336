"""Keys and values of the running sequences, and attention over them.

Each sequence has a slot; running sequences fill the first slots without gaps, so a decode
step attends over a view of the cache and copies nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from unshard.architectures.opt import OPTConfig
from unshard.models.attention import Attention, causal_attention


class KVCache:
    """`num_slots` slots of `max_positions` tokens each.

    One tensor per layer, (slots, 2H, max_positions, head_dim): a slot's K heads, then its V
    heads. Memory is touched (and so, on a CPU, taken) only as far as positions are used.
    """

    def __init__(
        self, config: OPTConfig, num_slots: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.num_heads = config.num_heads
        # torch's CPU attention with one query is several times slower in bf16 than in fp32.
        self.dtype = torch.float32 if device.type == "cpu" else dtype
        self.device = device
        shape = (num_slots, 2 * config.num_heads, config.max_positions, config.head_dim)
        # Zeros, not empty: masked positions are multiplied by 0, and 0 * NaN is NaN.
        self.layers = [
            torch.zeros(shape, dtype=self.dtype, device=device) for _ in range(config.num_layers)
        ]

    def prefill(self, first_slot: int, lengths: Sequence[int]) -> Attention:
        """Attention of whole prompts of `lengths` tokens, stored into the slots from
        `first_slot` on."""
        return PrefillAttention(self, first_slot, lengths)

    def decode(self, lengths: Sequence[int]) -> Attention:
        """Attention of one new token for each of the first slots; `lengths` count it in."""
        return DecodeAttention(self, lengths)

    def move(self, source: int, destination: int, length: int) -> None:
        """Copy the first `length` tokens of slot `source` into slot `destination`."""
        for layer in self.layers:
            layer[destination, :, :length] = layer[source, :, :length]


class PrefillAttention:
    """Each prompt attends to itself, and its K and V go to its slot."""

    def __init__(self, cache: KVCache, first_slot: int, lengths: Sequence[int]) -> None:
        self._cache = cache
        self._first_slot = first_slot
        self._lengths = list(lengths)

    def __call__(self, layer: int, kvq: Tensor) -> Tensor:
        cache, heads = self._cache.layers[layer], self._cache.num_heads
        parts = []
        for slot, rows in enumerate(kvq.split_with_sizes(self._lengths), start=self._first_slot):
            length = rows.shape[0]
            keys_values = rows.view(length, 3 * heads, -1)[:, : 2 * heads]
            cache[slot, :, :length] = keys_values.transpose(0, 1)
            parts.append(causal_attention(rows, heads))
        return parts[0] if len(parts) == 1 else torch.cat(parts)


class DecodeAttention:
    """One token per used slot: appended to its slot, attending to all of it.

    Slots of different lengths are attended to the longest one's length, the shorter ones
    masked.
    """

    def __init__(self, cache: KVCache, lengths: Sequence[int]) -> None:
        self._cache = cache
        self._num_rows = len(lengths)
        self._longest = max(lengths)
        _, two_heads, max_positions, _ = cache.layers[0].shape
        counts = torch.tensor(lengths, device=cache.device)
        rows = torch.arange(len(lengths) * two_heads, device=cache.device)
        # Row of the cache seen as (slots * 2H * positions, head_dim), the same in every layer.
        self._rows = rows * max_positions + (counts - 1).repeat_interleave(two_heads)
        self._mask: Tensor | None = None
        if min(lengths) < self._longest:
            beyond = torch.arange(self._longest, device=cache.device) >= counts[:, None]
            mask = torch.zeros(beyond.shape, dtype=cache.dtype, device=cache.device)
            self._mask = mask.masked_fill_(beyond, float("-inf"))[:, None, None]

    def __call__(self, layer: int, kvq: Tensor) -> Tensor:
        cache, heads, n = self._cache.layers[layer], self._cache.num_heads, self._num_rows
        head_dim = cache.shape[3]
        new = kvq.to(cache.dtype).view(n, 3 * heads, 1, head_dim)
        new_rows = new[:, : 2 * heads].reshape(n * 2 * heads, head_dim)
        cache.view(-1, head_dim).index_copy_(0, self._rows, new_rows)
        past = cache[:n, :, : self._longest]
        out = F.scaled_dot_product_attention(
            new[:, 2 * heads :], past[:, :heads], past[:, heads:], attn_mask=self._mask
        )
        return out.reshape(n, heads * head_dim).to(kvq.dtype)
