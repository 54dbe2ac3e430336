"""What is no file, no checkpoint, or only a part of one."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from refusal import Refusal
from safetensors.numpy import save_file

from unshard.errors import FormatError
from unshard.formats.safetensors import read_safetensors
from unshard.formats.torch_zip import read_torch_file

READERS = [read_torch_file, read_safetensors]
CONTENTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "text": (b"hello, this is a note\n", "is a text file"),
    "web page": (b"<!DOCTYPE html><html>Please log in</html>", "is a web page"),
    "cdn error": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "web page"),
    "legacy": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "legacy torch.save"),
    "noise": (bytes(range(256)), "no zip archive"),
    "empty zip": (b"PK\x05\x06" + bytes(18), "not one that torch.save wrote"),
    "half an end record": (b"PK\x05\x06" + bytes(17), "foreign bytes"),
    "local header only": (b"PK\x03\x04", "is truncated"),
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_not_a_checkpoint(tmp_path: Path, refused: Refusal, kind: str) -> None:
    content, problem = CONTENTS[kind]
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    with refused(path, problem):
        read_torch_file(path)


def bind_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))


NO_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "folder": (Path.mkdir, "is a folder"),
    "pipe": (os.mkfifo, "is a named pipe"),
    "socket": (bind_socket, "cannot be opened|is a socket"),
    "endless device": (lambda path: path.symlink_to("/dev/zero"), "is a device"),
    "terminal": (lambda path: path.symlink_to("/dev/ptmx"), "is a device|cannot be opened"),
    "link to nothing": (lambda path: path.symlink_to("absent"), "cannot be opened"),
    "link to itself": (lambda path: path.symlink_to(path), "cannot be opened"),
    "link to a pipe": (
        lambda path: (os.mkfifo(path.with_name("pipe")), path.symlink_to("pipe")), "named pipe",
    ),
    "kernel's file": (lambda path: path.symlink_to("/proc/self/mem"), "cannot be read|truncated"),
    "nothing": (lambda _path: None, "cannot be opened"),
}  # fmt: skip


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("kind", NO_FILES)
def test_not_a_file(
    tmp_path: Path, refused: Refusal, kind: str, read: Callable[[Path], object]
) -> None:
    """Opening a pipe must not wait for somebody to write into it."""
    make, problem = NO_FILES[kind]
    make(tmp_path / "a.pt")
    with refused(tmp_path / "a.pt", problem):
        read(tmp_path / "a.pt")


def test_a_link_to_a_checkpoint_is_one(tmp_path: Path) -> None:
    torch.save({"a": 1}, tmp_path / "a.pt")
    (tmp_path / "b.pt").symlink_to("a.pt")
    assert read_torch_file(tmp_path / "b.pt").content == {"a": 1}


def write_torch(path: Path) -> None:
    tensors = {"t": torch.arange(300), "empty": torch.empty(0), "u": torch.zeros(3)}
    torch.save({"model": tensors}, path)


def write_safetensors(path: Path) -> None:
    save_file({"t": torch.arange(300).numpy(), "u": torch.zeros(3).numpy()}, path)


@pytest.mark.parametrize(
    ("write", "read"),
    [(write_torch, read_torch_file), (write_safetensors, read_safetensors)],
    ids=["torch", "safetensors"],
)
def test_truncated_anywhere(
    tmp_path: Path, write: Callable[[Path], None], read: Callable[[Path], object]
) -> None:
    """At every percent, and at every byte of what is read first and last."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    write(whole)
    read(whole)
    raw = whole.read_bytes()
    lengths = {len(raw) * percent // 100 for percent in range(100)}
    for length in sorted(lengths | {*range(200), *range(len(raw) - 600, len(raw))}):
        cut.write_bytes(raw[:length])
        with pytest.raises(FormatError):
            read(cut)


@pytest.mark.parametrize("extra", [b"\0", b"\n", bytes(4096)])
@pytest.mark.parametrize(
    ("write", "read"),
    [(write_torch, read_torch_file), (write_safetensors, read_safetensors)],
    ids=["torch", "safetensors"],
)
def test_something_before_or_behind(
    tmp_path: Path, write: Callable[[Path], None], read: Callable[[Path], object], extra: bytes
) -> None:
    """A file that is two things at once (a polyglot) is none."""
    path = tmp_path / "a"
    write(path)
    raw = path.read_bytes()
    for polyglot in (extra + raw, raw + extra, raw + raw):
        path.write_bytes(polyglot)
        with pytest.raises(FormatError):
            read(path)


def test_a_file_that_is_both_kinds(tmp_path: Path) -> None:
    """A zip archive behind a safetensors header, whose data is then the archive."""
    write_torch(tmp_path / "a")
    raw = (tmp_path / "a").read_bytes()
    header = b'{"t":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (len(raw), len(raw))
    (tmp_path / "b").write_bytes(len(header).to_bytes(8, "little") + header + raw)
    assert read_safetensors(tmp_path / "b")
    with pytest.raises(FormatError, match="zip64 locator"):
        read_torch_file(tmp_path / "b")
