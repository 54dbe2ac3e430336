"""Laws of the blocks: whatever sequences come and go, each reads what it would have computed."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from unshard.engine.block_pool import BLOCK_TOKENS, ROOT, BlockPool
from unshard.engine.block_table import BlockTable, num_blocks_for


class Blocks(RuleBasedStateMachine):
    """Sequences over few tokens, so that many begin alike. `contents` stands for the cache: for
    each place the whole prefix that a model would have computed it from."""

    @initialize(num_blocks=st.integers(1, 12), most_unused=st.one_of(st.none(), st.integers(1, 4)))
    def start(self, num_blocks, most_unused):
        self.pool = BlockPool(num_blocks, most_unused)
        self.contents = [[None] * BLOCK_TOKENS for _ in range(num_blocks)]
        self.running = []

    @rule(
        tokens=st.lists(st.sampled_from("ab"), min_size=1, max_size=4),
        end=st.integers(0, BLOCK_TOKENS),
    )
    def begin(self, tokens, end):
        ids = [token for token in tokens for _ in range(BLOCK_TOKENS)] + ["c"] * end
        table = BlockTable(self.pool)
        table.share(table.cached_prefix(ids))
        num_shared = len(table.blocks) * BLOCK_TOKENS
        assert num_shared < len(ids)
        if table.num_missing(len(ids)) > self.pool.num_free:
            table.clear()
            return
        table.grow(len(ids))
        self.running.append((table, ids, num_shared))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), num=st.integers(1, 40))
    def compute(self, data, num):
        place = data.draw(st.integers(0, len(self.running) - 1))
        table, ids, num_computed = self.running[place]
        end = min(len(ids), num_computed + num)
        for position in range(num_computed, end):
            block = table.blocks[position // BLOCK_TOKENS]
            self.contents[block][position % BLOCK_TOKENS] = tuple(ids[: position + 1])
        table.index(ids, end)
        self.running[place] = (table, ids, end)

    @precondition(lambda self: self.running and self.pool.num_free)
    @rule(data=st.data(), token=st.sampled_from("abc"))
    def append(self, data, token):
        table, ids, _ = data.draw(st.sampled_from(self.running))
        ids.append(token)
        table.grow(len(ids))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), failed=st.booleans())
    def end(self, data, failed):
        table, _, _ = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        if not failed:
            table.clear()
            return
        for block in table.discard():
            assert not self.pool.is_held(block)
            self.contents[block] = ["anything"] * BLOCK_TOKENS

    @invariant()
    def every_sequence_reads_what_it_would_have_computed(self):
        for table, ids, num_computed in self.running:
            for position in range(num_computed):
                block = table.blocks[position // BLOCK_TOKENS]
                assert self.contents[block][position % BLOCK_TOKENS] == tuple(ids[: position + 1])

    @invariant()
    def every_block_is_held_or_free(self):
        held = {block for table, _, _ in self.running for block in table.blocks}
        assert all(self.pool.is_held(block) for block in held)
        assert len(held) + self.pool.num_free == self.pool.num_blocks

    @invariant()
    def no_sequence_has_more_blocks_than_it_needs(self):
        for table, ids, _ in self.running:
            assert len(table.blocks) == num_blocks_for(len(ids))

    def teardown(self):
        for table, _, _ in getattr(self, "running", []):
            table.clear()
        if hasattr(self, "pool"):
            assert self.pool.num_free == self.pool.num_blocks


TestBlocks = Blocks.TestCase
TestBlocks.settings = settings(stateful_step_count=30, deadline=None)


@pytest.fixture
def table_of():
    """Computes and indexes the blocks of `ids` in a pool."""

    def table_of(pool, ids):
        table = BlockTable(pool)
        table.share(table.cached_prefix(ids))
        table.grow(len(ids))
        table.index(ids, len(ids))
        return table

    return table_of


def test_the_longest_unused_goes_first_and_a_prefix_outlives_what_follows(table_of):
    pool = BlockPool(4)
    old, new = [1] * 33, [2] * 17
    table_of(pool, old).clear()
    table_of(pool, new).clear()
    probe = BlockTable(pool)
    assert len(probe.cached_prefix([1] * 33)) == 2
    for _ in range(2):
        pool.take()
    assert len(probe.cached_prefix(old)) == 1
    assert len(probe.cached_prefix(new)) == 1
    pool.take()
    assert probe.cached_prefix(old) == []
    assert len(probe.cached_prefix(new)) == 1


def test_blocks_without_contents_go_before_those_with(table_of):
    pool = BlockPool(4)
    table_of(pool, [1] * 17).clear()
    for _ in range(3):
        pool.take()
    assert len(BlockTable(pool).cached_prefix([1] * 17)) == 1


def test_the_last_token_is_never_shared(table_of):
    pool = BlockPool(8)
    table_of(pool, [1] * 32).clear()
    assert len(BlockTable(pool).cached_prefix([1] * 32)) == 1
    assert len(BlockTable(pool).cached_prefix([1] * 33)) == 2


def test_two_that_computed_the_same_end_up_with_one_block(table_of):
    pool = BlockPool(8)
    first, second = BlockTable(pool), BlockTable(pool)
    for table in (first, second):
        table.grow(32)
    first.index([1] * 32, 32)
    second.index([1] * 32, 32)
    assert first.blocks == second.blocks
    assert pool.num_free == 6


def test_the_same_block_after_another_prefix_is_another(table_of):
    pool = BlockPool(8)
    table_of(pool, [1] * 16 + [3] * 16 + [0])
    assert len(BlockTable(pool).cached_prefix([2] * 16 + [3] * 16 + [0])) == 0
    assert len(BlockTable(pool).cached_prefix([1] * 16 + [4] * 16 + [0])) == 1


def told_apart(number, num_blocks=2):
    """A prompt of `num_blocks` full blocks and a token, like no other number's."""
    return [number] * (num_blocks * BLOCK_TOKENS + 1)


def test_what_nobody_asks_for_again_costs_no_more_memory(table_of):
    pool, used = BlockPool(1000, most_unused=8), set()
    for number in range(100):
        table = table_of(pool, told_apart(number))
        used.update(table.blocks)
        table.clear()
    assert len(used) <= 8 + 3
    assert pool.num_free == 1000


def test_what_is_asked_for_again_is_kept_from_then_on(table_of):
    pool = BlockPool(1000, most_unused=8)

    def hits_of_a_round():
        hits = 0
        for number in range(40):
            hits += len(BlockTable(pool).cached_prefix(told_apart(number)))
            table_of(pool, told_apart(number)).clear()
        return hits

    rounds = [hits_of_a_round() for _ in range(3)]
    assert rounds[0] == 0
    assert rounds[-1] == 80
    assert 80 <= pool.most_unused <= 82


def test_nothing_more_is_kept_for_what_all_blocks_would_not_have_kept(table_of):
    pool = BlockPool(100, most_unused=8)
    for number in range(100):
        table_of(pool, told_apart(number)).clear()
    BlockTable(pool).cached_prefix(told_apart(0))
    assert pool.most_unused == 8


def key_of(letter):
    """The key of a prompt's first block."""
    return ROOT, (letter,) * BLOCK_TOKENS


def leave(pool, letter):
    """A block is computed and given back; nobody asked for it before, as of generated text."""
    block = pool.take()
    pool.index(key_of(letter), block)
    pool.release(block)


def test_what_went_a_second_time_is_missed_from_then_on():
    """It went after b and c, and is forgotten after them, however early it went at first."""
    pool = BlockPool(4, most_unused=1)
    for letter in "abcadef":
        leave(pool, letter)
    for forgotten in "bc":
        assert pool.find(key_of(forgotten)) is None
        assert pool.most_unused == 1
    assert pool.find(key_of("a")) is None
    assert pool.most_unused == 4  # a, and d, e and f, which came after it


def test_blocks_that_are_held_would_not_have_kept_what_went():
    """Three are at once, so of all that went the fourth would have kept the last alone."""
    pool = BlockPool(4, most_unused=1)
    for letter in "abcd":
        leave(pool, letter)
    last = [pool.take() for _ in range(3)][-1]
    pool.index(key_of("e"), last)
    pool.release(last)
    pool.take()
    for letter in "bcd":
        assert pool.find(key_of(letter)) is None
        assert pool.most_unused == 1
