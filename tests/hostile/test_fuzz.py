"""Anything at all is read or refused. `make fuzz` goes further, guided by coverage."""

from __future__ import annotations

import contextlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from archives import archive
from hypothesis import given, settings
from hypothesis import strategies as st
from opcodes import NAMESPACE, ORDERED_DICT, get, integer, put, storage, tensor, text

from unshard.errors import FormatError, UnshardError
from unshard.formats.extent import check_extent
from unshard.formats.pickle_encode import encode_pickle
from unshard.formats.records import as_mapping
from unshard.formats.safetensors import read_safetensors
from unshard.formats.torch_zip import read_torch_file, tensors_of
from unshard.formats.unpickle import decode_pickle
from unshard.index.build import open_checkpoint
from unshard.testing.tiny_checkpoint import write_tiny_checkpoint

PIECES = [
    *(bytes([code]) for code in b"N()]}tleausRQb012\x81\x85\x86\x87\x88\x8f\x90\x91\x93\x94."),
    *(integer(value) for value in (0, 1, -1, 4, 255, 2**31, 2**53, 2**61 - 1, 2**63, 2**500)),
    *(text(value) for value in ("", "storage", "cpu", "0", "model", "a.b", "\ud800")),
    *(use + bytes([index]) for use in (b"q", b"h") for index in range(3)),
    put(300), get(300), storage(), tensor(), NAMESPACE, ORDERED_DICT, b"ctorch\nSize\n",
    b"ctorch._utils\n_rebuild_parameter\n", b"ctorch._tensor\n_rebuild_from_type_v2\n",
    b"G" + bytes(8), b"cos\nsystem\n", b"\x8e" + bytes(8),
]  # fmt: skip

pieces = st.lists(st.sampled_from(PIECES), max_size=40)


def attempt(work: Callable[[], object]) -> None:
    with contextlib.suppress(UnshardError):  # and nothing else
        work()


def open_torch(path: Path) -> None:
    with contextlib.suppress(FormatError):
        file = read_torch_file(path)
        list(tensors_of(file, (as_mapping(file.content) or {}).get("model"), "model"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def healthy(folder: Path) -> bytes:
    torch.save({"model": {"t": torch.arange(9)}, "cfg": {"a": (1, "b")}}, folder / "sound.pt")
    return (folder / "sound.pt").read_bytes()


@pytest.fixture(scope="module")
def part(folder: Path) -> dict[str, bytes]:
    """The members of a checkpoint's only file."""
    write_tiny_checkpoint(folder / "raw", tp_size=1, fsdp_size=1)
    [path] = (folder / "raw").iterdir()
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


EXAMPLES = pytest.mark.parametrize(
    "examples", [30, pytest.param(4000, marks=pytest.mark.slow)], ids=["short", "long"]
)


def check(examples: int, law: Callable[..., None], **drawn: st.SearchStrategy[Any]) -> None:
    settings(max_examples=examples, deadline=None)(given(**drawn)(law))()


@EXAMPLES
def test_any_bytes_as_a_pickle(examples: int) -> None:
    def law(raw: bytes) -> None:
        attempt(lambda: decode_pickle(raw, "x"))

    check(examples, law, raw=st.binary(max_size=60))


@EXAMPLES
def test_any_opcodes(folder: Path, examples: int) -> None:
    """What is read can be written, and then means the same."""

    def law(chosen: list[bytes]) -> None:
        pickle = b"".join([b"\x80\x02", *chosen, b"."])
        open_torch(archive(folder / "a.pt", pickle, {"a/data/0": bytes(16)}))
        with contextlib.suppress(UnshardError):
            value = decode_pickle(pickle, "x")
            check_extent(value, "x")
            written = encode_pickle(value)
            assert encode_pickle(decode_pickle(written, "x")) == written

    check(examples, law, chosen=pieces)


@EXAMPLES
def test_any_mutation_of_an_archive(folder: Path, healthy: bytes, examples: int) -> None:
    def law(changes: list[tuple[int, int]]) -> None:
        raw = bytearray(healthy)
        for at, value in changes:
            raw[at] = value
        (folder / "b.pt").write_bytes(raw)
        open_torch(folder / "b.pt")

    change = st.tuples(st.integers(0, len(healthy) - 1), st.integers(0, 255))
    check(examples, law, changes=st.lists(change, min_size=1, max_size=4))


@EXAMPLES
def test_any_change_of_a_checkpoint(folder: Path, part: dict[str, bytes], examples: int) -> None:
    """Opcodes put into a sound pickle, anywhere and in place of anything."""
    [path] = (folder / "raw").iterdir()
    name = f"{path.stem}/data.pkl"

    def law(changes: list[tuple[int, int, list[bytes]]]) -> None:
        raw = part[name]
        for at, gone, chosen in changes:
            raw = raw[:at] + b"".join(chosen) + raw[at + gone :]
        with zipfile.ZipFile(path, "w") as archive:
            for member, stored in {**part, name: raw}.items():
                archive.writestr(member, stored)
        attempt(lambda: open_checkpoint(folder / "raw"))

    change = st.tuples(st.integers(2, len(part[name]) - 1), st.integers(0, 12), pieces)
    check(examples, law, changes=st.lists(change, min_size=1, max_size=3))


words = st.sampled_from(["dtype", "shape", "data_offsets", "U8", "F32", "__metadata__", "a", ""])
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=4),
    max_leaves=8,
)
entries = st.fixed_dictionaries(
    {
        "dtype": st.just("U8") | values,
        "shape": st.lists(st.integers(0, 4), max_size=2) | values,
        "data_offsets": st.lists(st.integers(0, 9), min_size=2, max_size=2) | values,
    }
)


@EXAMPLES
def test_any_safetensors_header(folder: Path, examples: int) -> None:
    path = folder / "a.safetensors"

    def law(header: Any, size: int) -> None:
        raw = json.dumps(header).encode()
        path.write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(size))
        attempt(lambda: read_safetensors(path))

    headers = st.dictionaries(words, entries | values, max_size=4)
    check(examples, law, header=headers, size=st.integers(0, 9))
