"""Who brings which bytes of a file: nobody's, somebody's or there, and never two of these."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unshard.download import shares
from unshard.download.shares import Shares
from unshard.download.spans import NOTHING, Spans

SIZE = 60
span = st.tuples(st.integers(0, SIZE), st.integers(0, SIZE))


def spans_of(pairs) -> Spans:
    spans = NOTHING
    for start, stop in pairs:
        spans = spans.with_span(start, stop)
    return spans


def offsets(spans: Spans) -> set[int]:
    return {offset for start, stop in spans.pairs for offset in range(start, stop)}


@given(st.lists(span), st.integers(0, SIZE))
def test_spans_are_sets_of_offsets(pairs, limit):
    spans = spans_of(pairs)
    expected = {offset for start, stop in pairs for offset in range(start, stop)}
    assert offsets(spans) == expected
    assert spans.num_bytes == len(expected)
    assert offsets(spans.gaps(SIZE)) == set(range(SIZE)) - expected
    assert offsets(spans.below(limit)) == {offset for offset in expected if offset < limit}
    assert Spans.parse([list(pair) for pair in spans.pairs]) == spans
    assert all(a[1] < b[0] for a, b in zip(spans.pairs, spans.pairs[1:], strict=False))


@pytest.mark.parametrize("value", [None, 7, "ab", [1], [[1]], [[2, 1]], [[-1, 4]], [["a", 1]]])
def test_what_is_no_list_of_spans_is_nothing(value):
    assert Spans.parse(value) == NOTHING


@given(
    st.lists(span), st.lists(st.tuples(st.sampled_from(["take", "put", "back"]), st.floats(0, 1)))
)
def test_every_offset_is_free_or_taken_or_there(monkeypatch_smallest, pairs, steps):
    there = spans_of(pairs)
    file = Shares(SIZE, there)
    arrived = offsets(there)
    held = []
    for step, fraction in steps:
        if step == "take":
            share = file.take(may_split=True)
            assert (share is not None) == bool(share and share.num_bytes)
            held += [share] if share else []
        elif held:
            share = held[int(fraction * (len(held) - 1))]
            if step == "put" and share in file:
                num_bytes = 1 + int(fraction * (share.num_bytes - 1))
                new = set(range(share.position, share.position + num_bytes))
                assert not new & arrived
                arrived |= new
                file.advance(share, num_bytes)
            elif step == "back":
                file.give_back(share)
                assert share not in file
        taken = [set(range(s.position, s.stop)) for s in file.taken]
        assert sum(map(len, taken)) == len(set().union(*taken))
        assert offsets(file.arrived) == arrived
        assert file.missing_bytes == SIZE - len(arrived)
    while share := file.take(may_split=False):
        file.advance(share, share.num_bytes)
    for share in file.taken:
        file.advance(share, share.num_bytes)
    assert not file.missing_bytes


@pytest.fixture(scope="module")
def monkeypatch_smallest():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shares, "SMALLEST_SHARE_BYTES", 4)
        yield


def test_an_idle_connection_takes_half_of_the_largest_share(monkeypatch_smallest):
    file = Shares(64)
    first, second, third = (file.take(may_split=True) for _ in range(3))
    assert [(s.position, s.stop) for s in (first, second, third)] == [(0, 16), (32, 64), (16, 32)]


def test_a_share_given_back_is_brought_by_the_answer_that_goes_on_beyond(monkeypatch_smallest):
    file = Shares(64)
    first, second = file.take(may_split=True), file.take(may_split=True)
    file.give_back(second)
    assert (first.position, first.stop) == (0, 64)
    assert file.take(may_split=False) is None


def test_small_shares_are_not_split(monkeypatch_smallest):
    file = Shares(7)
    assert file.take(may_split=True)
    assert file.largest_bytes == 0
    assert file.take(may_split=True) is None
