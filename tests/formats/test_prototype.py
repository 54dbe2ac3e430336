"""Decoding by prototype gives what decoding gives, sharing included."""

from __future__ import annotations

import pickle
from argparse import Namespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unshard.errors import FormatError, UnshardError
from unshard.formats.pickle_encode import encode_pickle
from unshard.formats.pickle_prototype import Prototypes
from unshard.formats.unpickle import decode_pickle


def rank_file(rank: int, text: str = "abc", key: int = 5) -> bytes:
    config = Namespace(rank=rank, device=rank % 8, host=text, lr=[1e-4])
    names = ["weight", "bias"]
    units = [{"names": names, "shapes": [(3, 4), (3,)], "padding": rank} for _ in range(3)]
    content: dict[str, Any] = {"cfg": config, "again": config, "units": units, "nested": ((rank,),)}
    content["self"] = content
    content[key] = {"time": rank / 7, "state": (rank, [rank], {"r": rank})}
    return pickle.dumps(content, protocol=2)


def outcome(decode: Any, data: bytes) -> tuple[bytes | str, Any]:
    """What a value is, sharing included, or why there is none."""
    try:
        found = decode(data, "x")
        return encode_pickle(found), found
    except UnshardError as error:
        return str(error), None


def check(files: list[bytes]) -> list[Any]:
    """Every file as if alone, and as it was when all have been decoded."""
    prototypes, found = Prototypes(), []
    for data in files:
        alone, _ = outcome(decode_pickle, data)
        together, content = outcome(prototypes.decode, data)
        assert together == alone
        if content is not None:
            found.append((alone, content))
    for alone, content in found:
        assert encode_pickle(content) == alone
    return [content for _, content in found]


def test_ranks() -> None:
    contents = check([rank_file(rank) for rank in range(300)])
    units = [content["units"] for content in contents]
    assert units[250][0]["names"] is units[240][0]["names"]
    assert contents[7]["again"] is contents[7]["cfg"]
    assert contents[7]["self"] is contents[7]


def test_texts_and_keys() -> None:
    """A text of equal length is a hole; a key is none, nor is a longer text."""
    texts = ["abc", "abd", "xyz", "é1", "\xff", "abcd", "abc", "\ud800"]
    contents = check([rank_file(1, text) for text in texts])
    assert [content["cfg"].state["host"] for content in contents] == texts
    assert len(check([rank_file(1, key=key) for key in (5, 6, 5)])) == 3


def test_more_kinds_than_are_remembered() -> None:
    files = [rank_file(1, "x" * length) for length in range(20)]
    assert len(check(files * 2)) == 40


@pytest.mark.parametrize("change", range(4))
def test_length_prefix_that_differs(change: int) -> None:
    """The same bytes, cut into values differently, are another pickle."""
    first = b"\x80\x02(X\x01\0\0\0aX\x03\0\0\0bcdt."
    second = b"\x80\x02(X\x05\0\0\0aX\x03\0\0bcdt."
    third = first.replace(b"X\x01", b"X\x02")
    fourth = first.replace(b"bcd", b"b\xffd")
    check([first, [first, second, third, fourth][change], first])


@given(data=st.data())
def test_any_mutation(data: st.DataObject) -> None:
    base = rank_file(data.draw(st.integers(0, 70_000)))
    files = [base]
    for _ in range(data.draw(st.integers(1, 4))):
        raw = bytearray(data.draw(st.sampled_from(files)))
        for _ in range(data.draw(st.integers(1, 6))):
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
        files.append(bytes(raw))
    check(files)


def test_a_hostile_one_among_them() -> None:
    """What a file may not say by itself, it may not say as the second of its kind."""
    sound, prototypes = rank_file(1), Prototypes()
    prototypes.decode(sound, "x")
    with pytest.raises(FormatError, match=r"y: pickle at byte .* protocol"):
        prototypes.decode(b"\x80\x09" + sound[2:], "y")
    with pytest.raises(FormatError, match=r"y: pickle at byte .* mentions"):
        prototypes.decode(sound.replace(b"cargparse\nNamespace", b"cargparse\nNamespacf"), "y")
