"""Every bad file is named, whatever the workers; one flipped bit is enough."""

from __future__ import annotations

import hashlib
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unshard.errors import UsageError
from unshard.manifest import Digest, Manifest
from unshard.verify import verify


class Counter:
    def __init__(self):
        self.total_bytes = self.done_bytes = 0

    def start(self, what, total_bytes):
        self.total_bytes = total_bytes

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
    workers=st.integers(1, 4),
    data=st.data(),
)
def test_exactly_the_flipped_files_are_named(tmp_path, contents, workers, data):
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
    report = verify(tmp_path, manifest, workers=workers)
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


def test_a_file_that_cannot_be_read_is_named_and_the_others_are_verified(tmp_path, monkeypatch):
    manifest = write(tmp_path, {"a.pt": b"A", "b.pt": b"B"})
    inode, read = (tmp_path / "a.pt").stat().st_ino, os.readv

    def readv(fd, buffers):
        if os.fstat(fd).st_ino == inode:
            raise OSError(5, "Input/output error")
        return read(fd, buffers)

    monkeypatch.setattr(os, "readv", readv)
    report = verify(tmp_path, manifest)
    assert [d.problem for d in report.different] == ["cannot be read: Input/output error"]
    assert report.matching == ("b.pt",)


def test_no_folder_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        verify(tmp_path / "none", Manifest({}, "m"))
