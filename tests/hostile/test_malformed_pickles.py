"""Pickles that break the machine's rules, or ask it for too much (CVE-2026-24747 and kin)."""

from __future__ import annotations

from pathlib import Path

import pytest
from archives import archive
from opcodes import NAMESPACE, ORDERED_DICT, doubled, get, integer, pickle, put, shared, text
from refusal import Refusal

from unshard.formats.pickle_encode import encode_pickle
from unshard.formats.torch_zip import read_torch_file
from unshard.formats.unpickle import decode_pickle

MALFORMED: dict[str, bytes] = {
    "SETITEM on a list": pickle(b"]K\x00K\x01s"),
    "SETITEM on a string": pickle(text("x"), b"K\x00K\x01s"),
    "SETITEMS on a tuple": pickle(b")(K\x00K\x01u"),
    "SETITEMS on a tensor's id": pickle(text("x"), b"Q(K\x00K\x01u"),
    "SETITEMS on nothing": pickle(b"(K\x00K\x01u"),
    "odd number of items": pickle(b"}(K\x00u"),
    "APPEND to a dict": pickle(b"}K\x00a"),
    "APPENDS to a number": pickle(b"K\x01(K\x00e"),
    "APPENDS to a tuple": pickle(b")(K\x00e"),
    "ADDITEMS to a list": pickle(b"](K\x00\x90"),
    "memo that was never set": pickle(b"h\x07"),
    "far memo that was never set": pickle(get(0xFFFFFFFF)),
    "memo of nothing": pickle(b"q\x00"),
    "empty stack": pickle(b"0"),
    "pop across a mark": pickle(b"N(0("),
    "tuple of more than there is": pickle(b"\x85"),
    "tuple across a mark": pickle(b"N(N\x86"),
    "duplicate of a mark": pickle(b"(2"),
    "no mark": pickle(b"K\x01t"),
    "mark left over": pickle(b"(N"),
    "two results": pickle(b"NN"),
    "no result": pickle(),
    "no end": b"\x80\x02N",
    "nothing": b"",
    "unhashable key": pickle(b"}]Ns"),
    "unhashable element": pickle(b"(]\x91", protocol=4),
    "string longer than the file": pickle(b"X\xff\xff\xff\xff"),
    "string of 2^64 bytes": pickle(b"\x8d" + b"\xff" * 8, protocol=4),
    "bytes of 2^63 bytes": pickle(b"\x8e" + b"\0" * 7 + b"\x80", protocol=4),
    "bytearray longer than the file": pickle(b"\x96" + b"\xff" * 8, protocol=5),
    "huge integer": pickle(b"\x8b\xff\xff\xff\x7f"),
    "integer of 65 bytes": pickle(b"\x8a\x41" + b"\x01" * 65),
    "not UTF-8": pickle(b"X\x01\0\0\0\xff"),
    "name that is not UTF-8": pickle(b"cmetaseq\n\xff\n"),
    "frame that does not end": b"\x80\x04\x95\x00\x00",
    "operand that does not end": b"\x80\x02J\x00",
}


@pytest.mark.parametrize("attack", MALFORMED)
def test_malformed(tmp_path: Path, refused: Refusal, attack: str) -> None:
    path = archive(tmp_path / "a.pt", MALFORMED[attack])
    with refused(path, "pickle"):
        read_torch_file(path)


SLOW_KEYS: dict[str, bytes] = {
    "nested tuple": b")\x85",
    "tuple of shared parts": shared(60),
    "long tuple": b"(" + b"N" * 100_000 + b"t",
    "string of a megabyte": text("x" * 1_000_000),
    "tuple of a long string": text("x" * 5000) + b"\x85",
    "integer with the hash of another": integer(2**61 - 1),
    "large negative integer": integer(-(2**40)),
    "tuple of a float": b"G" + bytes(8) + b"\x85",
    "frozenset": b"(K\x01\x91",
    "list": b"]",
    "dict": b"}",
    "set": b"\x8f",
    "bytearray": b"\x96" + bytes(8),
}


@pytest.mark.parametrize("key", SLOW_KEYS)
def test_keys_that_take_long(tmp_path: Path, refused: Refusal, key: str) -> None:
    """To hash or to compare, time and again; as a key, as an element, frozen or not."""
    for use in (b"}%bNs", b"}(%bNu", b"\x8f(%b\x90", b"(%b\x91", ORDERED_DICT + b")R%bNs"):
        path = archive(tmp_path / "a.pt", pickle(use % SLOW_KEYS[key], protocol=5))
        with refused(path, "pickle at byte .* as a key"):
            read_torch_file(path)


def test_keys_that_people_use() -> None:
    keys = [text("a"), b"K\x07", integer(-3), b"N", b"\x88", b"G" + bytes(8), b"N\x85", NAMESPACE]
    content = decode_pickle(pickle(b"}(", *(key + b"N" for key in keys), b"u"), "x")
    assert len(content) == len(keys)


DEEP: dict[str, bytes] = {
    "lists": pickle(b"]" * 5000, b"a" * 4999),
    "tuples": pickle(b")" + b"\x85" * 5000),
    "dicts": pickle(b"}" + b"N}" * 4999, b"s" * 4999),
    "states": pickle((NAMESPACE + b")\x81") * 3000, b"b" * 2999),
    "arguments": pickle(NAMESPACE * 3000, b")", b"R\x85" * 2999, b"R"),
    "persistent ids": pickle(b"N" + b"Q" * 5000),
    "a chain that also lies flat": pickle(
        b"](", b"".join(b"]" + put(link) for link in range(3000)), b"e0",
        b"".join(get(link) + get(link + 1) + b"a0" for link in range(2999)),
        b"](", b"".join(get(link) for link in range(3000)), b"e",
    ),
}  # fmt: skip


@pytest.mark.parametrize("attack", DEEP)
def test_deep_nesting(tmp_path: Path, refused: Refusal, attack: str) -> None:
    """The last one looks two levels deep from above, where each link lies beside the chain."""
    path = archive(tmp_path / "a.pt", DEEP[attack])
    with refused(path, "deep"):
        read_torch_file(path)


BOMBS: dict[str, bytes] = {
    "tuples": pickle(shared(60)),
    "lists": pickle(doubled(60, b"]", b"](%(it)b%(it)be")),
    "dict values": pickle(doubled(60, b"}", b"}(K\x00%(it)bK\x01%(it)bu")),
    "states": pickle(doubled(30, b")", NAMESPACE + b")\x81%(it)b%(it)b\x86b")),
    "arguments": pickle(doubled(30, b")", NAMESPACE + b"%(it)b%(it)b\x86R")),
    "items of objects": pickle(doubled(30, b")", ORDERED_DICT + b")R(%(it)b%(it)be")),
    "entries of objects": pickle(doubled(30, b")", ORDERED_DICT + b")R(N%(it)bK\x01%(it)bu")),
    "persistent ids": pickle(doubled(30, b")", b"%(it)b%(it)b\x86Q")),
    "wide": pickle(b"(" + b"N" * 2000 + b"t" + put(0), b"0(" + get(0) * 2000 + b"t"),
    "one long text": pickle(text("x" * 100_000) + put(0) + b"0(" + get(0) * 1000 + b"t"),
}


@pytest.mark.parametrize("attack", BOMBS)
def test_small_files_of_huge_values(tmp_path: Path, refused: Refusal, attack: str) -> None:
    path = archive(tmp_path / "a.pt", BOMBS[attack])
    assert path.stat().st_size < 200_000
    with refused(path, "unfolds"):
        read_torch_file(path)


HOLDING_THEMSELVES: dict[str, bytes] = {
    "dict": pickle(b"}q\x00", text("me"), b"h\x00s"),
    "list": pickle(b"]q\x00h\x00a"),
    "tuple in a list": pickle(b"]q\x00h\x00\x85a"),
    "object": pickle(NAMESPACE, b")\x81q\x00}", text("_parent"), b"h\x00sb"),
}


@pytest.mark.parametrize("kind", HOLDING_THEMSELVES)
def test_a_value_that_holds_itself_is_read(tmp_path: Path, kind: str) -> None:
    """OmegaConf's nodes know their parents. Writing gives the same value again."""
    content = read_torch_file(archive(tmp_path / "a.pt", HOLDING_THEMSELVES[kind])).content
    once = encode_pickle(content)
    assert encode_pickle(decode_pickle(once, "x")) == once


def test_memo_bomb_takes_no_memory() -> None:
    """LONG_BINPUT with a huge index makes a C unpickler allocate gigabytes."""
    assert decode_pickle(pickle(b"N" + put(0x7FFFFFFF)), "x") is None
