"""hash_files against hashlib, by either way of hashing."""

import hashlib
import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unshard.digest import files, hash_files, lanes
from unshard.digest.queue import Queue

EDGES = [0, 1, 55, 56, 63, 64, 65, 119, 120, 128, 129]


def ignore(num_bytes: int) -> None: ...


def written(folder: Path, lengths: list[int]) -> dict[Path, str]:
    """Files of these lengths and their md5s by hashlib."""
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    expected = {}
    for i, length in enumerate(lengths):
        content = os.urandom(length)
        path = folder / str(i)
        path.write_bytes(content)
        expected[path] = hashlib.md5(content).hexdigest()
    return expected


@pytest.fixture
def lanes_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lanes for any number of bytes, and rows so short that every file needs several reads."""
    pytest.importorskip("llvmlite", reason="the extra `fast`")
    from unshard.digest import md5_lanes

    monkeypatch.setattr(files, "LANES_PAY_BYTES", 0)
    monkeypatch.setattr(files, "LANES_PAY_FILES", 0)
    monkeypatch.setattr(files, "hash_one_by_one", None)
    monkeypatch.setattr(md5_lanes, "READ_BYTES", 128)
    monkeypatch.setattr(md5_lanes, "_ROW_BYTES", 256)


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_every_file_has_the_digest_of_its_bytes(tmp_path: Path, algorithm: str) -> None:
    paths = list(written(tmp_path / "files", [*EDGES, 2**20]))
    found = dict(hash_files(paths, algorithm, advance=ignore))
    assert found == {p: hashlib.new(algorithm, p.read_bytes()).hexdigest() for p in paths}


def test_nothing_to_hash() -> None:
    assert list(hash_files([], "md5", advance=ignore)) == []


def test_advance_hears_of_every_byte(tmp_path: Path) -> None:
    heard: list[int] = []
    list(hash_files(written(tmp_path / "files", [5, 2**20]), "md5", advance=heard.append))
    assert sum(heard) == 5 + 2**20


def unreadable_among_good(folder: Path) -> None:
    good = written(folder / "files", EDGES)
    os.mkfifo(folder / "pipe")
    bad = [folder / "pipe", folder / "files", folder / "gone"]
    found = dict(hash_files([*bad, *good], "md5", advance=ignore))
    assert {path: found[path] for path in good} == good
    assert all(isinstance(found[path], OSError) for path in bad)


def test_what_cannot_be_read_fails_alone_and_a_pipe_does_not_hang(tmp_path: Path) -> None:
    unreadable_among_good(tmp_path)


def what_advance_raises_is_raised(folder: Path) -> None:
    for error in (KeyboardInterrupt, BrokenPipeError):

        def stop(num_bytes: int, error: type[BaseException] = error) -> None:
            raise error

        with pytest.raises(error):
            list(hash_files(written(folder / "files", [9] * 40), "md5", advance=stop))


def test_what_advance_raises_is_raised(tmp_path: Path) -> None:
    what_advance_raises_is_raised(tmp_path)


def test_who_stops_listening_ends_the_workers(tmp_path: Path) -> None:
    queue = Queue(written(tmp_path / "files", [9] * 40), ignore)
    queue.stop()
    queue.run(lambda: files.hash_one_by_one(queue, "md5"))
    assert list(queue.results(1)) == []


def test_an_unknown_algorithm_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unsupported hash"):
        list(hash_files([tmp_path], "md55", advance=ignore))


def test_without_llvmlite_there_are_no_lanes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "llvmlite", None)
    for name in ("llvmlite.binding", "unshard.digest.md5_kernel", "unshard.digest.md5_lanes"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(files, "LANES_PAY_BYTES", 0)
    lanes._lanes.cache_clear()
    try:
        assert not lanes.has_lanes("md5")
        expected = written(tmp_path / "files", EDGES)
        assert dict(hash_files(expected, "md5", advance=ignore)) == expected
    finally:
        lanes._lanes.cache_clear()


def test_lanes_are_for_md5_only() -> None:
    assert not lanes.has_lanes("sha256")


@pytest.mark.slow
@pytest.mark.usefixtures("lanes_always")
class TestLanes:
    @pytest.mark.parametrize("num_files", [1, 2, 15, 16, 17, 33, 300])
    def test_any_number_of_files(self, tmp_path: Path, num_files: int) -> None:
        lengths = [(EDGES * 30)[i] for i in range(num_files)]
        expected = written(tmp_path / "files", lengths)
        assert dict(hash_files(expected, "md5", advance=ignore)) == expected

    @settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(st.integers(0, 1500), max_size=50), st.integers(1, 4))
    def test_any_lengths_and_workers(
        self, tmp_path: Path, lengths: list[int], workers: int
    ) -> None:
        expected = written(tmp_path / "files", lengths)
        found = hash_files(expected, "md5", advance=ignore, workers=workers)
        assert dict(found) == expected

    def test_what_cannot_be_read_fails_alone(self, tmp_path: Path) -> None:
        unreadable_among_good(tmp_path)

    def test_what_advance_raises_is_raised(self, tmp_path: Path) -> None:
        what_advance_raises_is_raised(tmp_path)

    def test_a_read_that_fails_is_of_that_file_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected = written(tmp_path / "files", [1000] * 20)
        bad = next(iter(expected))
        bad_inode, read = bad.stat().st_ino, os.readv

        def readv(fd: int, buffers: list[memoryview]) -> int:
            if os.fstat(fd).st_ino == bad_inode:
                raise OSError(5, "Input/output error")
            return read(fd, buffers)

        monkeypatch.setattr(os, "readv", readv)
        found = dict(hash_files(expected, "md5", advance=ignore))
        assert isinstance(found.pop(bad), OSError)
        assert found == {path: md5 for path, md5 in expected.items() if path != bad}
