"""Every bad file is named, however many files; one flipped bit is enough."""

from __future__ import annotations

import hashlib
import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unshard import digest
from unshard.download.journal import Journal
from unshard.errors import UsageError
from unshard.finished import JOURNAL_NAME, Finished, remember, remembered
from unshard.manifest import Digest, Manifest
from unshard.progress import Silent
from unshard.verify import hashing, verify


class Counter(Silent):
    def __init__(self):
        self.total_bytes = self.done_bytes = 0
        self.names = []

    def start(self, what, total_bytes, files=None):
        self.total_bytes, self.files = total_bytes, files

    def file(self, name):
        self.names.append(name)

    def advance(self, num_bytes):
        self.done_bytes += num_bytes

    def note(self, line):
        raise AssertionError(line)


def write(directory, contents: dict[str, bytes]) -> Manifest:
    for name, content in contents.items():
        (directory / name).write_bytes(content)
    digests = {n: Digest("md5", hashlib.md5(c).hexdigest()) for n, c in contents.items()}
    return Manifest(digests, str(directory / "md5.csv"))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    contents=st.dictionaries(st.sampled_from("abcdef"), st.binary(max_size=99), min_size=1),
    data=st.data(),
)
def test_exactly_the_flipped_files_are_named(tmp_path, contents, data):
    manifest = write(tmp_path, contents)
    for path in tmp_path.iterdir():
        if path.name not in contents:
            path.unlink()
    flipped = data.draw(st.sets(st.sampled_from([n for n, c in contents.items() if c] or ["-"])))
    for name in flipped & contents.keys():
        raw = bytearray(contents[name])
        bit = data.draw(st.integers(0, 8 * len(raw) - 1))
        raw[bit // 8] ^= 1 << bit % 8
        (tmp_path / name).write_bytes(raw)
    flipped &= contents.keys()
    report = verify(tmp_path, manifest)
    assert {difference.name for difference in report.different} == flipped
    assert set(report.matching) == contents.keys() - flipped
    assert (report.missing, report.extra) == ((), ())
    assert report.is_right == (not flipped)


def test_missing_extra_and_different_are_told_apart(tmp_path):
    manifest = write(tmp_path, {"a.pt": b"A", "b.pt": b"B", "c.pt": b"C", "d.pt": b"D"})
    (tmp_path / "a.pt").unlink()
    (tmp_path / "b.pt").write_bytes(b"b")
    (tmp_path / "d.pt").unlink()
    (tmp_path / "d.pt").mkdir()
    for name in ("extra.pt", "a.pt.partial", ".hidden", "md5.csv"):
        (tmp_path / name).touch()
    report = verify(tmp_path, manifest)
    assert report.missing == ("a.pt",)
    assert report.matching == ("c.pt",)
    assert report.extra == ("a.pt.partial", "extra.pt")
    first, second = report.different
    wrong, right = hashlib.md5(b"b").hexdigest(), hashlib.md5(b"B").hexdigest()
    assert (first.name, first.problem) == (
        "b.pt",
        f"has md5 {wrong}, not md5 {right}",
    )
    assert (second.name, second.problem) == ("d.pt", "is not a file")
    assert not report.is_right


def test_every_byte_is_read_and_counted(tmp_path):
    manifest = write(tmp_path, {"a.pt": b"A" * 700_001, "b.pt": b"", "c.pt": b"C" * 3})
    counter = Counter()
    report = verify(tmp_path, manifest, progress=counter)
    assert report.num_bytes == counter.total_bytes == counter.done_bytes == 700_004
    assert sorted(counter.names) == ["a.pt", "b.pt", "c.pt"]
    assert (counter.files().num_whole, counter.files().num_files) == (3, 3)


def test_a_file_that_cannot_be_read_is_named_and_the_others_are_verified(tmp_path, monkeypatch):
    manifest = write(tmp_path, {"a.pt": b"A", "b.pt": b"B"})

    def hash_files(paths, algorithm, *, advance):
        for path, value in digest.hash_files(paths, algorithm, advance=advance):
            yield path, OSError(5, "Input/output error") if path.name == "a.pt" else value

    monkeypatch.setattr(hashing, "hash_files", hash_files)
    report = verify(tmp_path, manifest)
    assert [d.problem for d in report.different] == ["cannot be read: Input/output error"]
    assert report.matching == ("b.pt",)


def test_no_folder_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        verify(tmp_path / "none", Manifest({}, "m"))


def settle(directory) -> None:
    """As if all files had been written long ago."""
    for path in directory.iterdir():
        os.utime(path, ns=(10**18, 10**18 + len(path.name)))


def test_what_was_verified_is_remembered_unless_forced(tmp_path):
    manifest = write(tmp_path, {"a.pt": b"A", "b.pt": b"BB"})
    settle(tmp_path)
    first = verify(tmp_path, manifest)
    assert (first.num_bytes, first.remembered) == (3, ())
    again = verify(tmp_path, manifest)
    assert (again.num_bytes, again.remembered) == (0, ("a.pt", "b.pt"))
    assert again.matching == first.matching
    assert again.is_right
    forced = verify(tmp_path, manifest, force=True)
    assert (forced.num_bytes, forced.remembered) == (3, ())


@pytest.mark.parametrize("change", ["size", "time", "inode"])
def test_a_file_that_changed_is_not_remembered(tmp_path, change):
    manifest = write(tmp_path, {"a.pt": b"A", "b.pt": b"B"})
    settle(tmp_path)
    verify(tmp_path, manifest)
    path = tmp_path / "a.pt"
    status = path.stat()
    if change == "inode":
        (tmp_path / "new").write_bytes(b"X")
        (tmp_path / "new").replace(path)
    else:
        path.write_bytes(b"X" if change == "time" else b"XX")
    if change != "time":
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    report = verify(tmp_path, manifest)
    assert [d.name for d in report.different] == ["a.pt"]
    assert report.remembered == ("b.pt",)


def test_a_file_of_this_moment_is_not_remembered(tmp_path):
    manifest = write(tmp_path, {"a.pt": b"A"})
    verify(tmp_path, manifest)
    assert verify(tmp_path, manifest).remembered == ()


def test_another_digest_is_not_believed_for_this_one(tmp_path):
    manifest = write(tmp_path, {"a.pt": b"A"})
    settle(tmp_path)
    verify(tmp_path, manifest)
    sha256 = Manifest({"a.pt": Digest("sha256", hashlib.sha256(b"A").hexdigest())}, "m")
    assert verify(tmp_path, sha256).num_bytes == 1
    assert verify(tmp_path, sha256).num_bytes == 0


def test_what_force_finds_wrong_is_forgotten(tmp_path):
    manifest = write(tmp_path, {"a.pt": b"A"})
    settle(tmp_path)
    verify(tmp_path, manifest)
    path, status = tmp_path / "a.pt", (tmp_path / "a.pt").stat()
    path.write_bytes(b"X")  # as a bit that the disk lost: nothing but the content tells
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert verify(tmp_path, manifest).is_right
    assert not verify(tmp_path, manifest, force=True).is_right
    assert not verify(tmp_path, manifest).is_right


def test_the_release_that_a_file_came_from_stays_known(tmp_path):
    manifest = write(tmp_path, {"a.pt": b"A"})
    settle(tmp_path)
    fact = Finished.of((tmp_path / "a.pt").stat(), manifest["a.pt"], "/opt/66b/")
    remember(tmp_path, {"a.pt": fact})
    verify(tmp_path, manifest, force=True)
    assert remembered(tmp_path) == {"a.pt": fact}


def test_a_line_without_an_inode_holds(tmp_path):
    manifest = write(tmp_path, {"a.pt": b"A"})
    settle(tmp_path)
    old = Finished.of((tmp_path / "a.pt").stat(), manifest["a.pt"]).line("a.pt")
    del old["inode"], old["folder"]
    (tmp_path / JOURNAL_NAME).write_text(json.dumps(old))
    assert verify(tmp_path, manifest).remembered == ("a.pt",)


def test_nothing_is_noted_while_a_download_holds_the_journal(tmp_path):
    manifest = write(tmp_path, {"a.pt": b"A"})
    settle(tmp_path)
    with Journal(tmp_path):
        assert verify(tmp_path, manifest).is_right
    assert remembered(tmp_path) == {}
    assert verify(tmp_path, manifest).remembered == ()
    with Journal(tmp_path) as journal:
        assert journal.finished("a.pt").holds_for((tmp_path / "a.pt").stat())


def test_a_journal_that_cannot_be_is_no_error(tmp_path):
    manifest = write(tmp_path, {"a.pt": b"A"})
    settle(tmp_path)
    (tmp_path / JOURNAL_NAME).mkdir()
    assert verify(tmp_path, manifest).is_right
    (tmp_path / JOURNAL_NAME).rmdir()
    os.mkfifo(tmp_path / JOURNAL_NAME)
    assert verify(tmp_path, manifest).is_right
    (tmp_path / JOURNAL_NAME).unlink()
    (tmp_path / "elsewhere").write_bytes(b"{}")
    (tmp_path / JOURNAL_NAME).symlink_to("elsewhere")
    assert verify(tmp_path, manifest).is_right
    assert (tmp_path / "elsewhere").read_bytes() == b"{}"


@pytest.mark.parametrize(
    "content",
    [b'{"finished": "a.pt", "siz', b"[" * 100_000 + b"\n", b"\xff\x00\n5\nnull\n[]\n{}\n"],
)
def test_a_damaged_journal_costs_time_alone(tmp_path, content):
    manifest = write(tmp_path, {"a.pt": b"A"})
    settle(tmp_path)
    (tmp_path / JOURNAL_NAME).write_bytes(content)
    assert verify(tmp_path, manifest).num_bytes == 1
    assert verify(tmp_path, manifest).remembered == ("a.pt",)


def test_a_wrong_length_is_told_without_reading(tmp_path):
    digests = dict(write(tmp_path, {"a.pt": b"A", "b.pt": b"B"}))
    report = verify(tmp_path, Manifest(digests, "m", {"a.pt": 2, "b.pt": 1}))
    assert [(d.name, d.problem) for d in report.different] == [("a.pt", "has 1 bytes, not 2")]
    assert (report.num_bytes, report.matching) == (1, ("b.pt",))


def test_names_that_the_numbering_skips_are_told(tmp_path):
    manifest = write(tmp_path, {"part-0.pt": b"0", "part-2.pt": b"2"})
    report = verify(tmp_path, manifest)
    assert report.skipped_names == ("part-1.pt",)
    assert report.is_right
