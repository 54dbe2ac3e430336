"""A builder per attack: each is refused by name, at once, and nothing of it ever runs.

Pickle payloads are written as raw opcodes, as an attacker would (picklescan and fickling
advisories; CVE-2025-32434, CVE-2026-24747).
"""

from __future__ import annotations

import contextlib
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unshard.errors import FormatError
from unshard.formats.records import as_mapping
from unshard.formats.torch_zip import read_torch_file, tensors_of
from unshard.formats.unpickle import decode_pickle


def short(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def system(mark: str) -> bytes:
    return b"\x80\x02cos\nsystem\n" + short(f"touch {mark}") + b"\x85R."


PICKLES: dict[str, bytes] = {
    "os.system by REDUCE": system("pwned"),
    "posix.system": b"\x80\x02cposix\nsystem\n" + short("touch pwned") + b"\x85R.",
    "builtins.eval": b"\x80\x02c__builtin__\neval\n" + short("1+1") + b"\x85R.",
    "getattr chain": b"\x80\x02cbuiltins\ngetattr\n)R.",
    "subprocess by STACK_GLOBAL": b"\x80\x04\x8c\nsubprocess\x8c\x05Popen\x93)R.",
    "dotted name": b"\x80\x04\x8c\x05torch\x8c\x09os.system\x93)R.",
    "torch.load inside": b"\x80\x02ctorch\nload\n" + short("x") + b"\x85R.",
    "torch.hub.load": b"\x80\x02ctorch.hub\nload\n" + short("x") + b"\x85R.",
    "INST": b"\x80\x02(ios\nsystem\n.",
    "OBJ": b"\x80\x02(cos\nsystem\no.",
    "EXT1": b"\x80\x02\x82\x01.",
    "text opcodes": b"I1\n.",
    "call of a string": b"\x80\x02" + short("os") + b")R.",
    "call of a call": b"\x80\x02ccollections\nOrderedDict\n)R)R.",
    "SETITEM on a list": b"\x80\x02]K\x00K\x01s.",
    "SETITEMS on a string": b"\x80\x02" + short("x") + b"(K\x00K\x01u.",
    "APPEND to a dict": b"\x80\x02}K\x00a.",
    "odd number of items": b"\x80\x02}(K\x00u.",
    "BUILD of a list": b"\x80\x02]}b.",
    "BUILD twice": b"\x80\x02cargparse\nNamespace\n)\x81}b}b.",
    "memo that was never set": b"\x80\x02h\x07.",
    "empty stack": b"\x80\x020.",
    "mark as a value": b"\x80\x02(0(.",
    "no mark": b"\x80\x02K\x01t.",
    "unhashable key": b"\x80\x02}]K\x01s.",
    "unhashable in a frozenset": b"\x80\x04(]\x91.",
    "deep key": b"\x80\x02})" + b"\x85" * 3000 + b"K\x01s.",
    "key of shared parts": b"\x80\x02})" + b"2\x86" * 60 + b"K\x01s.",
    "deep element of a set": b"\x80\x04\x8f()\x85\x85\x90.",
    "deep element of a frozenset": b"\x80\x04()\x85\x85\x91.",
    "two results": b"\x80\x02NN.",
    "no result": b"\x80\x02.",
    "no end": b"\x80\x02N",
    "protocol 9": b"\x80\x09N.",
    "string longer than the file": b"\x80\x02X\xff\xff\xff\xff.",
    "huge integer": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "name without end": b"\x80\x02c" + b"a" * 4096,
    "not UTF-8": b"\x80\x02X\x01\x00\x00\x00\xff.",
    "empty": b"",
}


@pytest.mark.parametrize("attack", PICKLES)
def test_pickle(tmp_path: Path, attack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = archive(tmp_path / "a.pt", pickle=PICKLES[attack])
    with pytest.raises(FormatError) as caught:
        read_torch_file(path)
    assert str(caught.value).startswith(f"{path}: pickle")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "pickle",
    [
        b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".",
        b"\x80\x02)" + b"\x85" * 5000 + b".",
        b"\x80\x02" + b"cargparse\nNamespace\n)\x81" * 3000 + b"b" * 2999 + b".",
    ],
    ids=["lists", "tuples", "states"],
)
def test_deep_nesting(tmp_path: Path, pickle: bytes) -> None:
    with pytest.raises(FormatError, match="deep"):
        read_torch_file(archive(tmp_path / "a.pt", pickle))


def test_a_value_that_holds_itself_is_read(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.pt", b"\x80\x02}q\x00" + short("me") + b"h\x00s.")
    content = read_torch_file(path).content
    assert content["me"] is content


def test_memo_bomb_takes_no_memory() -> None:
    """LONG_BINPUT with a huge index makes a C unpickler allocate gigabytes."""
    assert decode_pickle(b"\x80\x02Nr\xff\xff\xff\x7f.", "x") is None


def archive(path: Path, pickle: bytes = b"\x80\x02}.", **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("a/data.pkl", pickle)
        for name, content in members.items():
            out.writestr(f"a/{name}", content)
    return path


def patched(path: Path, change: Callable[[bytearray], None]) -> Path:
    raw = bytearray(archive(path, x=b"x" * 100).read_bytes())
    change(raw)
    path.write_bytes(raw)
    return path


def central(raw: bytearray, field: int, value: int, size: int = 2) -> None:
    """Overwrites a field of the last central directory entry."""
    at = raw.rindex(b"PK\x01\x02") + field
    raw[at : at + size] = value.to_bytes(size, "little")


def end(raw: bytearray, field: int, value: int, size: int = 2) -> None:
    at = raw.rindex(b"PK\x05\x06") + field
    raw[at : at + size] = value.to_bytes(size, "little")


def local(raw: bytearray, field: int, value: int, size: int = 2) -> None:
    at = raw.rindex(b"PK\x03\x04") + field
    raw[at : at + size] = value.to_bytes(size, "little")


ZIPS: dict[str, tuple[Callable[[bytearray], None], str]] = {
    "encrypted": (lambda raw: central(raw, 8, 0x1), "compressed or encrypted"),
    "strong encryption": (lambda raw: central(raw, 8, 0x40), "compressed or encrypted"),
    "deflated": (lambda raw: central(raw, 10, 8), "compressed or encrypted"),
    "sizes differ": (lambda raw: central(raw, 20, 1, 4), "compressed or encrypted"),
    "data past the end": (
        lambda raw: (central(raw, 20, 1 << 30, 4), central(raw, 24, 1 << 30, 4)), "reaches past",
    ),
    "header elsewhere": (lambda raw: central(raw, 42, 3, 4), "no local header"),
    "overlapping members": (
        lambda raw: (central(raw, 20, 0, 4), central(raw, 24, 0, 4), overlap(raw)), "overlaps|past",
    ),
    "local name differs": (lambda raw: local(raw, 30, ord("b"), 1), "disagrees"),
    "local method differs": (lambda raw: local(raw, 8, 8), "disagrees"),
    "zip64 lie": (lambda raw: central(raw, 24, 0xFFFFFFFF, 4), "zip64"),
    "too many entries": (lambda raw: end(raw, 10, 60000), "ends at entry"),
    "too few entries": (lambda raw: end(raw, 10, 1), "more than its stated"),
    "directory outside": (lambda raw: end(raw, 16, 1 << 31, 4), "lies outside"),
    "comment hides bytes": (lambda raw: raw.extend(b"tail"), "foreign bytes"),
}  # fmt: skip


def overlap(raw: bytearray) -> None:
    """Makes the first member's data reach into the second."""
    at = raw.index(b"PK\x01\x02")
    raw[at + 20 : at + 28] = struct.pack("<2I", 90, 90)


@pytest.mark.parametrize("attack", ZIPS)
def test_zip(tmp_path: Path, attack: str) -> None:
    change, problem = ZIPS[attack]
    path = patched(tmp_path / "a.pt", change)
    with pytest.raises(FormatError, match=problem) as caught:
        read_torch_file(path)
    assert str(path) in str(caught.value)


def test_duplicate_member(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("a/data.pkl", b"\x80\x02}.")
        with pytest.warns(UserWarning, match="Duplicate"):
            out.writestr("a/data.pkl", b"\x80\x02}.")
    with pytest.raises(FormatError, match="twice"):
        read_torch_file(path)


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "a\\evil"])
def test_path_traversal(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("a/data.pkl", b"\x80\x02}.")
        out.writestr(name, b"x")
    with pytest.raises(FormatError, match="leaves the archive"):
        read_torch_file(path)


OTHER_FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "text": (b"hello, this is a note\n", "is a text file"),
    "web page": (b"<!DOCTYPE html><html>Please log in</html>", "is a web page"),
    "cdn error": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "web page"),
    "legacy": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "legacy torch.save"),
    "noise": (bytes(range(256)), "no zip archive"),
    "other zip": (b"PK\x05\x06" + bytes(18), "not one that torch.save wrote"),
}


@pytest.mark.parametrize("kind", OTHER_FILES)
def test_not_a_checkpoint(tmp_path: Path, kind: str) -> None:
    content, problem = OTHER_FILES[kind]
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=problem):
        read_torch_file(path)


TENSORS: dict[str, tuple[str, str]] = {
    "past its storage": ("_rebuild_tensor_v2", "reaches past"),
    "negative offset": ("offset", "reaches past"),
    "negative stride": ("stride", "malformed"),
    "negative shape": ("shape", "malformed"),
    "huge shape": ("huge", "reaches past|row-major"),
    "unknown storage": ("key", "not in the archive"),
    "storage size lies": ("count", "instead of"),
}


@pytest.mark.parametrize("attack", TENSORS)
def test_tensor(tmp_path: Path, attack: str) -> None:
    kind, problem = TENSORS[attack]
    size, stride, offset, key, count = b"K\x04\x85", b"K\x01\x85", b"K\x00", "0", b"K\x04"
    match kind:
        case "offset":
            offset = b"J" + struct.pack("<i", -1)
        case "stride":
            stride = b"J" + struct.pack("<i", -1) + b"\x85"
        case "shape":
            size = b"J" + struct.pack("<i", -4) + b"\x85"
        case "huge":
            size = b"\x8a\x08" + struct.pack("<q", 1 << 62) + b"\x85"
        case "key":
            key = "7"
        case "count":
            count = b"K\x05"
        case _:
            size = b"K\x05\x85"
    storage = b"(" + short("storage") + b"ctorch\nFloatStorage\n" + short(key) + short("cpu")
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n((" + storage[1:] + count + b"tQ" + offset + size
        + stride + b"\x89ccollections\nOrderedDict\n)RtR"
    )  # fmt: skip
    pickle = b"\x80\x02}" + short("t") + tensor + b"s."
    path = archive(tmp_path / "a.pt", pickle, **{"data/0": bytes(16)})
    file = read_torch_file(path)
    with pytest.raises(FormatError, match=problem):
        list(tensors_of(file, file.content, "model"))


def test_truncated_anywhere(tmp_path: Path) -> None:
    whole = tmp_path / "whole.pt"
    torch.save({"model": {"t": torch.arange(300)}}, whole)
    raw = whole.read_bytes()
    for percent in range(100):
        path = tmp_path / "cut.pt"
        path.write_bytes(raw[: len(raw) * percent // 100])
        with pytest.raises(FormatError):
            read_torch_file(path)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("healthy") / "a.pt"
    torch.save({"model": {"t": torch.arange(9)}, "cfg": {"a": (1, "b")}}, path)
    return path.read_bytes()


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_mutation_is_read_or_refused(
    tmp_path: Path, healthy: bytes, data: st.DataObject
) -> None:
    raw = bytearray(healthy)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "a.pt"
    path.write_bytes(raw)
    with contextlib.suppress(FormatError):  # and nothing else
        file = read_torch_file(path)
        list(tensors_of(file, as_mapping(file.content).get("model", {}), "model"))


@settings(max_examples=300, deadline=None)
@given(raw=st.binary(max_size=60))
def test_any_bytes_as_a_pickle(raw: bytes) -> None:
    with contextlib.suppress(FormatError):  # and nothing else
        decode_pickle(raw, "x")
