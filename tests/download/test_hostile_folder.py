"""A folder that somebody prepared, and names that somebody else chose: one line says what is in the
way and where, and nothing outside the folder is written, followed or removed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from unshard.cli.main import main
from unshard.finished import JOURNAL_NAME
from unshard.testing.object_store import FakeObjectStore

PARTIAL = "a.pt.partial"


class Trap:
    """The command, a store, and what lies beside the destination, which must stay as it is."""

    def __init__(self, home: Path, store: FakeObjectStore) -> None:
        self.home = home
        self.store = store
        self.target = home / "target"
        self.target.mkdir()
        self.precious = home / "precious"
        self.precious.mkdir()
        (self.precious / "file").write_bytes(b"precious")
        store.put("a.pt", b"PK\x03\x04" + bytes(3000))

    def run(self, *options: str, target: Path | None = None) -> int:
        url = self.store.presigned_url("a.pt")
        return main(["download", url, str(target or self.target), *options])

    def is_untouched(self) -> bool:
        files = {p.name: p.read_bytes() for p in self.precious.iterdir()}
        homes = {"objects", "target", "precious", "manifest"}
        return files == {"file": b"precious"} and {p.name for p in self.home.iterdir()} <= homes


@pytest.fixture
def trap(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "objects").mkdir()
    with FakeObjectStore(tmp_path / "objects") as store:
        trap = Trap(tmp_path, store)
        yield trap
    assert trap.is_untouched()


def error_of(capfd) -> str:
    """The one line of it."""
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


KINDS = {
    "a link to a file": lambda trap, path: path.symlink_to(trap.precious / "file"),
    "a link to a folder": lambda trap, path: path.symlink_to(trap.precious),
    "a link to where nothing is": lambda trap, path: path.symlink_to(trap.precious / "new"),
    "a link to itself": lambda trap, path: path.symlink_to(path),
    "a folder": lambda trap, path: path.mkdir(),
    "a full folder": lambda trap, path: (path / "more").mkdir(parents=True),
    "a pipe": lambda trap, path: os.mkfifo(path),
    "a device": lambda trap, path: path.symlink_to("/dev/full"),
}


@pytest.mark.parametrize("has_manifest", [False, True])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("name", ["a.pt", PARTIAL, JOURNAL_NAME])
def test_what_is_no_file_is_neither_followed_nor_replaced(trap, name, kind, has_manifest, capfd):
    kind(trap, trap.target / name)
    before = os.lstat(trap.target / name)
    options = []
    if has_manifest:
        (trap.home / "manifest").write_text(f"{'0' * 32}  a.pt\n")
        options = ["--manifest", str(trap.home / "manifest")]
    assert trap.run(*options) == 1
    assert str(trap.target / name) in error_of(capfd)
    after = os.lstat(trap.target / name)
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)


@pytest.mark.parametrize("kind", [KINDS["a link to a file"], KINDS["a folder"], KINDS["a pipe"]])
def test_a_journal_that_is_written_anew_follows_nothing(trap, kind, capfd, monkeypatch):
    """The name that it takes meanwhile may be taken."""
    monkeypatch.setattr("unshard.download.journal.COMPACT_BYTES", 0)
    fresh = trap.target / f"{JOURNAL_NAME}.new"
    kind(trap, fresh)
    is_folder = fresh.is_dir()
    assert trap.run() == (1 if is_folder else 0)
    if is_folder:
        assert JOURNAL_NAME in error_of(capfd)


def test_a_file_where_the_folder_belongs(trap, capfd):
    for target in (trap.precious / "file", trap.precious / "file" / "deeper"):
        assert trap.run(target=target) == 1
        assert f"{target}: is a file, not a folder" in error_of(capfd)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only(trap, capfd):
    trap.target.chmod(0o500)
    assert trap.run() == 1
    trap.target.chmod(0o700)
    assert f"{trap.target / JOURNAL_NAME}: Permission denied" in error_of(capfd)


def test_a_folder_in_which_nothing_can_be_made(trap, capfd):
    for target in (Path("/proc/self/fdinfo"), Path("/proc/nowhere/else")):
        assert trap.run(target=target) == 1
        assert str(target) in error_of(capfd)


def test_a_name_that_no_disk_takes_as_the_folder(trap, capfd):
    assert trap.run(target=trap.home / ("x" * 300)) == 1
    assert "File name too long" in error_of(capfd)


def test_one_folder_by_two_names_is_one_folder(trap, capfd):
    """A link to the whole folder is the user's own doing, and followed."""
    link = trap.precious / "link"
    link.symlink_to(trap.target)
    assert trap.run(target=link) == 0
    assert trap.run() == 0
    assert "all 1 files are here" in capfd.readouterr().out
    assert len(trap.store.requests) == 1
    link.unlink()


NAMES = [
    "..", "../precious/file", "a/../../precious/file", "..\\precious\\file", "a\0.pt", "a\n.pt",
    "a\x1b[2J.pt", "\u202etp.a", "x" * 300 + ".pt", "ü" * 130, ".", "", " a.pt", JOURNAL_NAME,
    "a.pt.partial", "CON/a", "\ud800.pt",
]  # fmt: skip


def with_manifest(trap: Trap, form: str, name: str) -> tuple[int, Path]:
    """A download by a manifest of that name alone, in one of its forms."""
    path, md5 = trap.home / "manifest", "0" * 32
    ours = {"format": "unshard-manifest", "version": 1}
    forms = {
        "json": json.dumps({**ours, "files": [{"name": name, "digests": {"md5": md5}}]}),
        "lines": f"{md5}  {name}\n",
        "csv": f"shard,md5sum\n{name},{md5}\n",
    }
    path.write_bytes(forms[form].encode(errors="surrogatepass"))
    url, target = trap.store.presigned_url(), str(trap.target)
    return main(["download", url, target, "--manifest", str(path)]), path


@pytest.mark.parametrize("form", ["json", "lines", "csv"])
def test_a_good_name_in_each_form_is_asked_for(trap, form, capfd):
    assert with_manifest(trap, form, "none.pt")[0] == 1
    assert "none.pt: the server has no such file" in error_of(capfd)


@pytest.mark.parametrize("name", [*NAMES, "/etc/passwd"], ids=ascii)
@pytest.mark.parametrize("form", ["json", "lines", "csv"])
def test_a_name_in_a_manifest_that_is_none_for_a_file(trap, name, form, capfd):
    code, path = with_manifest(trap, form, name)
    told = error_of(capfd)
    assert code == 3
    assert str(path) in told
    assert told.isprintable()
    assert trap.store.requests == []
    assert not list(trap.target.iterdir())


@pytest.mark.parametrize(
    "name", ["..", "%2e%2e", "%2fetc%2fpasswd", "a%00.pt", "a%0a.pt", ".a", "%5c"]
)
def test_a_name_in_a_link_that_is_none_for_a_file(trap, name, capfd):
    url = trap.store.presigned_url(name)
    assert main(["download", url, str(trap.target)]) == 2
    error_of(capfd)
    assert not list(trap.target.iterdir())


NEWER = [
    b'{"format": 99, "unshard": "9.0"}\n',
    b'{"finished": "a.pt", "size_bytes": 3004, "mtime_ns": 1, "sha9": "x", "place": {"disk": 7}}\n',
    b'{"begun": "a.pt", "size_bytes": 3004, "etag": "\\"x\\"", "segments": [[0, 3004, "done"]]}\n',
    b"\x89UNSHARD2" + bytes(range(256)) * 9,
    b"PK\x03\x04" + bytes(5000),
]


@pytest.mark.parametrize("content", NEWER, ids=lambda content: ascii(content[:20]))
def test_a_journal_of_a_version_to_come_costs_time_only(trap, content):
    """What it says is not believed, and stays, for whoever reads it: lines are only added."""
    (trap.target / JOURNAL_NAME).write_bytes(content)
    (trap.target / PARTIAL).write_bytes(bytes(3004))
    assert trap.run() == 0
    assert (trap.target / "a.pt").read_bytes() == b"PK\x03\x04" + bytes(3000)
    assert (trap.target / JOURNAL_NAME).read_bytes().startswith(content)
