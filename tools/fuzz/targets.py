"""What is fuzzed: each reader with the laws that must hold for any input."""

from __future__ import annotations

import random
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tools.fuzz.answers import answer, mutated_answer
from tools.fuzz.downloads import journal, manifest
from tools.fuzz.mutators import mutated_archive, mutated_body, mutated_lines, mutated_safetensors
from tools.fuzz.opcodes import mutated_pickle
from tools.fuzz.refusals import refusal
from tools.fuzz.requests import body
from tools.fuzz.scratch import scratch

from unshard.errors import UnshardError
from unshard.formats.pickle_encode import encode_pickle
from unshard.formats.pickle_prototype import Prototypes
from unshard.formats.records import as_mapping
from unshard.formats.safetensors import read_safetensors
from unshard.formats.torch_zip import read_torch_file, tensors_of
from unshard.formats.unpickle import decode_pickle
from unshard.index.build import open_checkpoint
from unshard.testing.tiny_checkpoint import write_tiny_checkpoint


@dataclass(frozen=True)
class Target:
    """One reader as a function of bytes, and how to mutate them with their form in mind."""

    run: Callable[[bytes], None]
    mutated: Callable[[bytes, random.Random], bytes]


def pickle(data: bytes) -> None:
    """Alone or after others, a pickle decodes to the same value, which can be written again."""
    alone = encoded(decode_pickle, data)
    together = encoded(prototypes().decode, data)
    # Only a value's extent is not looked at when it is decoded alone.
    assert alone == together or (isinstance(together, str) and "its pickle" in together)
    if isinstance(together, bytes):
        assert encode_pickle(decode_pickle(together, "x")) == together


def encoded(decode: Callable[[bytes, str], object], data: bytes) -> bytes | str:
    try:
        value = decode(data, "x")
    except UnshardError as error:
        return error.message
    try:
        return encode_pickle(value)
    except UnshardError:
        return "holds what protocol 2 does not"
    except RecursionError:
        return "alone, it may nest deeply"


@cache
def prototypes() -> Prototypes:
    """Those of the whole run."""
    return Prototypes()


def archive(data: bytes) -> None:
    path = scratch().path / "a.pt"
    path.write_bytes(data)

    def read() -> None:
        file = read_torch_file(path)
        entries = as_mapping(file.content) or {}
        for ref in tensors_of(file, entries.get("model"), "model"):
            [piece] = ref.ranges
            assert 0 <= piece.offset <= piece.offset + piece.length <= len(data)

    assert str(path) in refusal(read, otherwise=str(path))


def safetensors(data: bytes) -> None:
    path = scratch().path / "a.safetensors"
    path.write_bytes(data)

    def read() -> None:
        pieces = [ref.ranges[0] for ref in read_safetensors(path).values()]
        assert sum(piece.length for piece in pieces) <= len(data)

    assert str(path) in refusal(read, otherwise=str(path))


def checkpoint(data: bytes) -> None:
    """The first of two files holds `data` as its pickle."""
    [path, *_] = sorted(raw().iterdir())
    with zipfile.ZipFile(path, "w") as out:
        for name, stored in members(path.name).items():
            out.writestr(name, data if name.endswith("/data.pkl") else stored)
    refusal(lambda: open_checkpoint(raw()))


@cache
def members(name: str) -> dict[str, bytes]:
    """What the file `name` held when it was sound."""
    with tempfile.TemporaryDirectory() as folder:
        write_tiny_checkpoint(folder, tp_size=1, fsdp_size=2)
        with zipfile.ZipFile(Path(folder) / name) as archive:
            return {name: archive.read(name) for name in archive.namelist()}


@cache
def raw() -> Path:
    """A checkpoint of two files."""
    folder = scratch().path / "raw"
    write_tiny_checkpoint(folder, tp_size=1, fsdp_size=2)
    return folder


TARGETS = {
    "pickle": Target(pickle, mutated_pickle),
    "archive": Target(archive, mutated_archive),
    "safetensors": Target(safetensors, mutated_safetensors),
    "checkpoint": Target(checkpoint, mutated_pickle),
    "manifest": Target(manifest, mutated_lines),
    "journal": Target(journal, mutated_lines),
    "answer": Target(answer, mutated_answer),
    "body": Target(body, mutated_body),
}
