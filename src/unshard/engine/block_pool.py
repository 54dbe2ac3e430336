"""Who holds which block of the cache, and which blocks already hold a wanted prefix.

Numbers only: the keys and values themselves are `PagedCache`'s.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

BLOCK_TOKENS = 16
"""Tokens of one block: small enough to waste little, large enough to be copied at full speed."""

ROOT = 0
"""The prefix of no tokens."""

PrefixKey = tuple[int, tuple[int, ...]]
"""A prefix, and the `BLOCK_TOKENS` tokens that follow it."""


@dataclass(frozen=True, slots=True)
class CacheUse:
    """How full a cache is, and what sharing saved."""

    num_blocks: int
    num_held: int
    """Blocks of sequences that run now."""
    num_started_tokens: int
    """Tokens of the sequences that were started, each time they were."""
    num_shared_tokens: int
    """Of these, the tokens whose keys and values were there already, in whole blocks: hits."""

    @property
    def num_missed_tokens(self) -> int:
        """Tokens of started sequences that had to be computed."""
        return self.num_started_tokens - self.num_shared_tokens

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds; they may still be found by what they hold."""
        return self.num_blocks - self.num_held


class BlockPool:
    """Reference counts of `num_blocks` blocks, and an index of the full ones by what they hold.

    A full block is known by its tokens and by the prefix before it, and a prefix is a number
    given once and never again. So two blocks are taken for one only if every token from the
    first on is equal: there is no hash that a client could make collide.

    Blocks that nobody holds keep their contents until they are needed; the longest unused goes
    first. A block that was never used costs memory, and the time in which the system finds it: such
    are taken only while fewer than `most_unused` keep what nobody may ever ask for again. Whenever
    somebody asks for what more blocks would have kept, that number becomes theirs.
    """

    def __init__(self, num_blocks: int, most_unused: int | None = None) -> None:
        """`most_unused` at first, 1 or more; None where all blocks have their memory anyway."""
        self.num_blocks = num_blocks
        self.most_unused = num_blocks if most_unused is None else most_unused
        self._references = [0] * num_blocks
        self._empty: list[int] = []
        """Without contents, but used before: a stack whose top was used last."""
        self._num_touched = 0
        """Blocks from this one on were never used."""
        self._unused: OrderedDict[int, None] = OrderedDict()
        """Indexed blocks that nobody holds, the longest unused first."""
        self._gone: OrderedDict[PrefixKey, int] = OrderedDict()
        """What the blocks that were never used could still keep, the longest gone first, each with
        how many had gone before."""
        self._num_gone = 0
        self._block_of: dict[PrefixKey, int] = {}
        self._key_of: dict[int, PrefixKey] = {}
        self._prefix_of: dict[int, int] = {}
        self._last_prefix = ROOT

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds, with or without contents."""
        return len(self._empty) + self._num_untouched + len(self._unused)

    @property
    def _num_untouched(self) -> int:
        return self.num_blocks - self._num_touched

    def is_held(self, block: int) -> bool:
        return self._references[block] > 0

    def take(self) -> int:
        """A block without contents, held once. There has to be a free one."""
        if self._empty:
            block = self._empty.pop()
        elif self._num_untouched and len(self._unused) < self.most_unused:
            block = self._num_touched
            self._num_touched += 1
        else:
            block = self._take_longest_unused()
        self._references[block] = 1
        return block

    def _take_longest_unused(self) -> int:
        block, _ = self._unused.popitem(last=False)
        key = self._key_of[block]
        self._gone[key] = self._num_gone
        self._gone.move_to_end(key)
        self._num_gone += 1
        while len(self._gone) > self._num_untouched:
            self._gone.popitem(last=False)
        self._unindex(block)
        return block

    def hold(self, block: int) -> None:
        """One more reference to a block that is held or indexed."""
        self._unused.pop(block, None)
        self._references[block] += 1

    def release(self, block: int) -> None:
        """One reference less. An indexed block keeps its contents for whoever wants them next."""
        self._references[block] -= 1
        if self._references[block]:
            return
        if block in self._key_of:
            self._unused[block] = None
        else:
            self._empty.append(block)

    def find(self, key: PrefixKey) -> int | None:
        """The block that holds `key`'s tokens after `key`'s prefix. Where it would still be there
        if more were kept, more will be."""
        block = self._block_of.get(key)
        if block is None and key in self._gone:
            gone_since = self._num_gone - self._gone.pop(key)
            wanted = min(len(self._unused) + gone_since, self.num_blocks)
            self.most_unused = max(self.most_unused, wanted)
        return block

    def prefix_of(self, block: int) -> int:
        """The prefix that ends with an indexed block."""
        return self._prefix_of[block]

    def index(self, key: PrefixKey, block: int) -> int:
        """Let `block`, held and full, be found by `key`. Where another block is found already,
        that one is held in its place and `block` is released; the one to use."""
        known = self._block_of.get(key)
        if known is not None:
            self.hold(known)
            self.release(block)
            return known
        self._last_prefix += 1
        self._block_of[key] = block
        self._key_of[block] = key
        self._prefix_of[block] = self._last_prefix
        return block

    def forget(self, block: int) -> None:
        """Let a held block be found no more: its contents are not what they should be."""
        if block in self._key_of:
            self._unindex(block)

    def _unindex(self, block: int) -> None:
        del self._block_of[self._key_of.pop(block)]
        del self._prefix_of[block]
