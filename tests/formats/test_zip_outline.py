"""An archive of which only the directory is there reads as the whole one does."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest
import torch

from unshard.errors import FormatError
from unshard.formats.regular_file import read_exactly
from unshard.formats.zip_directory import read_zip_directory
from unshard.formats.zip_outline import directory_offset, draw_headers


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "a.pt"
    torch.save(
        {"model": {"t": torch.arange(9), "u": torch.ones(1000), "none": torch.empty(0)}}, path
    )
    return path


def drawn(path: Path, raw: bytes) -> bytes:
    """`raw` without what is in front of its directory, and headers drawn there."""
    path.write_bytes(raw)
    with path.open("r+b") as file:
        start = directory_offset(str(path), file.fileno())
        file.write(bytes(start))
        file.flush()
        draw_headers(str(path), file.fileno())
    return path.read_bytes()


def test_members_are_where_they_were(saved: Path) -> None:
    members = read_zip_directory(saved)
    again = drawn(saved, saved.read_bytes())
    assert read_zip_directory(saved) == members
    assert not any(again[each.offset] for each in members.values() if each.length)


def test_members_that_torch_would_not_lay_so(saved: Path) -> None:
    raw = saved.read_bytes()
    [data] = [each for name, each in read_zip_directory(saved).items() if name.endswith("data/1")]
    length = data.length.to_bytes(4, "little") * 2
    with pytest.raises(FormatError, match="does not lie as torch's writer lays it"):
        drawn(saved, raw.replace(length, (data.length - 4).to_bytes(4, "little") * 2))


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """An archive without data descriptors: its local headers say how long its members are."""
    path = tmp_path / "plain.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}.")
        archive.writestr("a/data/0", bytes(range(100)))
    return path


def test_members_that_no_descriptor_follows(plain: Path) -> None:
    members = read_zip_directory(plain)
    drawn(plain, plain.read_bytes())
    assert read_zip_directory(plain) == members


@pytest.mark.parametrize("length", [-1, 200_000])
def test_members_that_no_descriptor_follows_out_of_place(plain: Path, length: int) -> None:
    """The second begins before the first ends, or far behind it."""
    raw = plain.read_bytes()
    [offset] = [at for at in range(len(raw)) if raw.startswith(b"PK\3\4", at)][1:]
    central = raw.rindex(b"PK\1\2")
    if length < 0:
        moved = offset - 8
        raw = raw[: central + 42] + moved.to_bytes(4, "little") + raw[central + 46 :]
    else:
        [end] = [at for at in range(len(raw)) if raw.startswith(b"PK\1\2", at)][:1]
        moved = int.from_bytes(raw[-6:-2], "little") + length
        raw = raw[:end] + bytes(length) + raw[end:-6] + moved.to_bytes(4, "little") + raw[-2:]
    with pytest.raises(FormatError, match="has an unusual local header"):
        drawn(plain, raw)


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_a_system_that_gives_less_than_was_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    path, pread = tmp_path / "file", os.pread
    path.write_bytes(bytes(range(20)))
    monkeypatch.setattr(os, "pread", lambda fd, length, at: pread(fd, min(length, at_once), at))
    with path.open("rb") as file:
        assert read_exactly("file", file.fileno(), 15, 2) == bytes(range(2, 17))
        assert read_exactly("file", file.fileno(), 18, 2) == bytes(range(2, 20))
        with pytest.raises(FormatError, match="ends at byte 20, 3 bytes too early"):
            read_exactly("file", file.fileno(), 18, 5)
