"""Folders whose file system has no locks, as Lustre is mostly mounted."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path

import pytest

from unshard.cli.main import main
from unshard.disk import take_lock
from unshard.download import PresignedTemplate, download
from unshard.finished import JOURNAL_NAME, Finished, remember, remembered
from unshard.manifest import Digest
from unshard.progress import Silent
from unshard.testing.object_store import FakeObjectStore

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


def refusing(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(_descriptor: int, _operation: int) -> None:
        raise OSError(code, "no")

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.parametrize("code", NO_LOCKS)
def test_a_reshard_does_without(
    raw: tuple[Path, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    refusing(code, monkeypatch)
    out = tmp_path / "out"
    assert main(["reshard", str(raw[0]), str(out), "--to", "safetensors"]) == 0
    assert main(["reshard", str(raw[0]), str(out), "--to", "safetensors"]) == 0
    assert (out / "unshard.json").stat().st_size


def test_a_download_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Notes(Silent):
        def note(self, line: str) -> None:
            notes.append(line)

    notes: list[str] = []
    with FakeObjectStore(tmp_path) as store:
        store.put("a.pt", b"PK" * 1000)
        refusing(errno.ENOSYS, monkeypatch)
        link = PresignedTemplate.parse(store.presigned_url())
        download(link, ["a.pt"], tmp_path / "here", progress=Notes())
    assert notes == [f"{tmp_path / 'here'}: has no file locks; run one download here at a time"]


@pytest.mark.parametrize("code", NO_LOCKS)
def test_what_was_found_right_is_remembered_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    refusing(code, monkeypatch)
    path = tmp_path / "a.pt"
    path.write_bytes(b"PK")
    facts = {"a.pt": Finished.of(path.stat(), Digest("md5", "0" * 32))}
    remember(tmp_path, facts)
    assert remembered(tmp_path) == facts


def test_nothing_is_remembered_while_another_has_the_lock(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL_NAME
    with path.open("w") as file:
        assert take_lock(file.fileno())
        remember(tmp_path, {"a": Finished.of(path.stat(), Digest("md5", "0" * 32))})
    assert remembered(tmp_path) == {}


def test_another_trouble_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing(errno.EIO, monkeypatch)
    with (tmp_path / "a").open("w") as file, pytest.raises(OSError, match="no"):
        take_lock(file.fileno())


def test_nobody_else_has_it_until_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with path.open("w") as file:
        assert take_lock(file.fileno())
        with path.open("w") as other, pytest.raises(BlockingIOError):
            take_lock(other.fileno())
    with path.open("w") as file:
        assert take_lock(file.fileno())
