"""The blocks of one sequence, in the order of its tokens."""

from __future__ import annotations

from collections.abc import Sequence

from unshard.engine.block_pool import BLOCK_TOKENS, ROOT, BlockPool, PrefixKey


def num_blocks_for(num_tokens: int) -> int:
    """Blocks that hold `num_tokens` tokens."""
    return -(-num_tokens // BLOCK_TOKENS)


class BlockTable:
    """Blocks held for one sequence: first those that are full and indexed, then its own.

    An indexed block may be another sequence's too and is never written to again.
    """

    __slots__ = ("_num_indexed", "_pool", "_prefix", "blocks")

    def __init__(self, pool: BlockPool) -> None:
        self._pool = pool
        self.blocks: list[int] = []
        self._num_indexed = 0
        self._prefix = ROOT
        """What the indexed blocks hold."""

    def cached_prefix(self, token_ids: Sequence[int]) -> list[int]:
        """Blocks anywhere in the cache that hold the beginning of `token_ids`; never all of it,
        because the last token has to be computed to know what follows."""
        found: list[int] = []
        prefix = ROOT
        for start in range(0, len(token_ids) - BLOCK_TOKENS, BLOCK_TOKENS):
            block = self._pool.find((prefix, tuple(token_ids[start : start + BLOCK_TOKENS])))
            if block is None:
                break
            found.append(block)
            prefix = self._pool.prefix_of(block)
        return found

    def share(self, blocks: Sequence[int]) -> None:
        """Begin with `blocks`, which are indexed."""
        for block in blocks:
            self._pool.hold(block)
        self.blocks = list(blocks)
        self._num_indexed = len(blocks)
        self._prefix = self._pool.prefix_of(blocks[-1]) if blocks else ROOT

    def num_missing(self, num_tokens: int) -> int:
        """Blocks still to be taken for `num_tokens` tokens in all."""
        return max(0, num_blocks_for(num_tokens) - len(self.blocks))

    def grow(self, num_tokens: int) -> None:
        """Take blocks for `num_tokens` tokens in all; there have to be enough."""
        for _ in range(self.num_missing(num_tokens)):
            self.blocks.append(self._pool.take())

    def next_key(self, token_ids: Sequence[int]) -> PrefixKey | None:
        """What the first block that is not indexed is to hold, if `token_ids` fill it."""
        start = self._num_indexed * BLOCK_TOKENS
        if start + BLOCK_TOKENS > len(token_ids):
            return None
        return self._prefix, tuple(token_ids[start : start + BLOCK_TOKENS])

    def index(self, token_ids: Sequence[int], num_computed: int) -> None:
        """Let others find the blocks that the first `num_computed` of `token_ids` have filled."""
        while (self._num_indexed + 1) * BLOCK_TOKENS <= num_computed:
            place = self._num_indexed
            start = place * BLOCK_TOKENS
            key = self._prefix, tuple(token_ids[start : start + BLOCK_TOKENS])
            self.blocks[place] = self._pool.index(key, self.blocks[place])
            self._prefix = self._pool.prefix_of(self.blocks[place])
            self._num_indexed += 1

    def clear(self) -> None:
        """Release every block, the last first: a prefix outlives what follows it."""
        while self.blocks:
            self._pool.release(self.blocks.pop())
        self._num_indexed = 0
        self._prefix = ROOT

    def discard(self) -> list[int]:
        """Release every block and let nobody find them; those that nobody holds any more."""
        blocks = list(self.blocks)
        for block in blocks:
            self._pool.forget(block)
        self.clear()
        return [block for block in blocks if not self._pool.is_held(block)]
