"""What rank 0 tells the others is what it computes itself."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unshard.engine.block_table import num_blocks_for
from unshard.engine.leader import LeadingRunner
from unshard.engine.messages import STEP, StepMessage
from unshard.engine.step import StepLayout
from unshard.errors import WorkerLostError


@st.composite
def steps(draw):
    spans = draw(
        st.lists(st.tuples(st.integers(1, 40), st.integers(0, 60)), min_size=1, max_size=5)
    )
    num_new = tuple(new for new, _ in spans)
    contexts = tuple(new + past for new, past in spans)
    tables = tuple(
        draw(st.lists(st.integers(0, 999), min_size=num_blocks_for(c), max_size=num_blocks_for(c)))
        for c in contexts
    )
    ids = draw(st.lists(st.integers(0, 50271), min_size=sum(num_new), max_size=sum(num_new)))
    num_kept = [draw(st.integers(1, new)) for new in num_new]
    return StepMessage(ids, StepLayout(tables, num_new, contexts), num_kept)


@given(steps())
def test_a_step_is_read_as_it_was_sent(step):
    numbers = step.numbers()
    assert numbers[0] == STEP
    assert StepMessage.read(numbers) == step


def test_blocks_beyond_the_context_are_not_sent():
    layout = StepLayout(([4, 5, 6],), (1,), (17,))
    assert StepMessage.read(StepMessage([9], layout, [1]).numbers()).layout.tables == ([4, 5],)


class BrokenRanks:
    """A group whose other side is gone after `calls` messages."""

    size = 2

    def __init__(self, calls):
        self.calls = calls
        self.sent = []

    def send(self, message):
        if self.calls == 0:
            raise RuntimeError("Connection closed by peer\nat a line of C++")
        self.calls -= 1
        self.sent.append(message)


class OneRunner:
    config = None
    num_blocks = 1
    most_unused = None
    shares_logits = False

    def wipe(self, blocks):
        self.wiped = blocks

    def logits(self, hidden):
        return hidden

    def compute(self, token_ids, layout, num_kept):
        raise KeyboardInterrupt


def test_a_group_that_broke_stays_broken():
    ranks = BrokenRanks(calls=1)
    leader = LeadingRunner(OneRunner(), ranks, lambda: None)
    leader.wipe([3])
    for _ in range(2):
        with pytest.raises(WorkerLostError, match=r"2 ranks broke: Connection closed by peer$"):
            leader.run([])
    ranks.calls = 5
    with pytest.raises(WorkerLostError):
        leader.run([])
    assert not leader.close()
    assert len(ranks.sent) == 1


def test_the_rank_that_was_lost_is_named_where_it_is_known():
    lost = WorkerLostError("rank 1 of 2 was ended by SIGKILL")
    leader = LeadingRunner(OneRunner(), BrokenRanks(calls=0), lambda: lost)
    with pytest.raises(WorkerLostError) as caught:
        leader.run([])
    assert caught.value is lost
    leader.wipe([1])  # nothing is left to wipe
    assert torch.equal(leader.logits(torch.ones(1)), torch.ones(1))


def test_after_an_interrupted_step_nobody_is_told_anything():
    """The others may be in the middle of it, and would take the message for something else."""
    ranks = BrokenRanks(calls=9)
    leader = LeadingRunner(OneRunner(), ranks, lambda: None)
    with pytest.raises(KeyboardInterrupt):
        leader.run([])
    assert not leader.close()
    assert len(ranks.sent) == 1
