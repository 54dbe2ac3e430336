"""Laws of text out: whole characters only, and never a stop string."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from unshard.engine.detokenizer import Detokenizer
from unshard.engine.stops import StopMatcher


@st.composite
def cut(draw, whole):
    """`whole` in pieces, some of them empty."""
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    return [whole[a:b] for a, b in pairwise([0, *cuts, len(whole)])]


@given(st.data(), st.text(max_size=30) | st.text("aé漢🎉", max_size=12))
def test_deltas_are_whole_characters_and_add_up(data, text):
    raw = text.encode("utf-8", "surrogatepass")
    detokenizer = Detokenizer()
    deltas = [detokenizer.push(piece) for piece in data.draw(cut(raw))]
    joined = "".join(deltas) + detokenizer.finish()
    assert joined == raw.decode("utf-8", errors="replace")
    assert raw.decode("utf-8", errors="replace").startswith("".join(deltas))


@given(st.data(), st.binary(max_size=20))
def test_any_bytes_decode_as_at_once(data, raw):
    detokenizer = Detokenizer()
    deltas = [detokenizer.push(piece) for piece in data.draw(cut(raw))]
    assert "".join(deltas) + detokenizer.finish() == raw.decode("utf-8", errors="replace")


def expected(text, stops, after=0):
    """The text before the stop string that is complete first (the longest of those) behind the
    first `after` characters."""
    for end in range(after + 1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(map(len, complete))], True
    return text, False


small = st.text("ab\n", min_size=1, max_size=4)


many = st.lists(small, max_size=3) | st.lists(small, min_size=14, max_size=16)


@given(st.data(), st.text("ab\n", max_size=14), many)
def test_stop_strings_never_leak_however_the_text_comes(data, text, stops):
    matcher, shown = StopMatcher(stops), ""
    wanted, matches = expected(text, stops)
    for piece in data.draw(cut(text)):
        shown += matcher.push(piece)
        assert wanted.startswith(shown)
    assert matcher.matched == matches
    assert shown + matcher.finish() == wanted


@given(st.data(), st.text("ab\n", max_size=14), st.lists(small, max_size=4), st.integers(0, 9))
def test_a_stop_string_that_ends_too_early_is_text(data, text, stops, first):
    matcher, shown, pushed = StopMatcher(stops), "", 0
    pieces = data.draw(cut(text))
    after = sum(map(len, pieces[:first]))
    wanted, matches = expected(text, stops, after)
    for number, piece in enumerate(pieces):
        shown += matcher.push(piece, may_match=number >= first)
        assert wanted.startswith(shown)
        pushed += len(piece)
        assert matcher.matched or not stops or pushed - len(shown) < max(map(len, stops))
    assert matcher.matched == matches
    assert shown + matcher.finish() == wanted


@given(st.text("ab", max_size=10))
def test_text_is_held_back_only_as_long_as_it_may_be_a_stop(text):
    matcher = StopMatcher(["abab"])
    shown = "".join(matcher.push(character) for character in text)
    if not matcher.matched:
        held = text[len(shown) :]
        assert "abab".startswith(held)
        assert all(not "abab".startswith(text[i:]) for i in range(len(shown)))
