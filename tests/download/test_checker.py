"""Files are judged together, by the thread that called, each exactly once."""

from __future__ import annotations

import errno
import os
import signal
import threading

import pytest

from unshard.download import RetryPolicy, checker
from unshard.download.session import Session
from unshard.errors import DestinationError, NoSpaceError, TransferError
from unshard.testing.object_store import Fault


@pytest.fixture
def batches(monkeypatch):
    """The names of files that were hashed together, batch by batch."""
    seen, real = [], checker.hash_files

    def hash_files(paths, algorithm, **settings):
        assert threading.current_thread() is threading.main_thread()
        seen.append(sorted(path.name for path in paths))
        yield from real(paths, algorithm, **settings)

    monkeypatch.setattr(checker, "hash_files", hash_files)
    return seen


def test_what_has_arrived_is_hashed_together_and_once(site, batches, monkeypatch):
    monkeypatch.setattr(checker, "GATHER_S", 3600)
    site.add(*(f"{i}.pt" for i in range(10)))
    site.run()
    assert batches == [sorted(f"{i}.pt.partial" for i in range(10))]


def test_a_resume_hashes_no_prefix(site, batches):
    site.add("a.pt")
    site.store.inject(Fault(cut_after=2000))
    with pytest.raises(TransferError):
        site.run(retry=RetryPolicy(attempts=1))
    assert batches == []
    site.run()
    assert batches == [["a.pt.partial"]]


def test_files_wait_for_others_only_so_long(site, batches, monkeypatch):
    monkeypatch.setattr(checker, "GATHER_S", 0.05)
    site.add("a.pt", "b.pt")
    site.store.inject(Fault(stall_after=1000), file="b.pt")
    told = []

    def tell(name):
        told.append(name)
        site.store.end_silence()

    site.run(on_file=tell)
    assert batches == [["a.pt.partial"], ["b.pt.partial"]]
    assert told == ["a.pt", "b.pt"]


def test_a_full_batch_waits_for_nothing(site, batches, monkeypatch):
    monkeypatch.setattr(checker, "BATCH_FILES", 2)
    monkeypatch.setattr(checker, "GATHER_S", 3600)
    site.add("a.pt", "b.pt", "c.pt")
    site.store.inject(Fault(stall_after=1000), file="c.pt")
    site.run(on_file=lambda _: site.store.end_silence())
    assert [len(batch) for batch in batches] == [2, 1]


def test_files_that_stand_there_are_hashed_beside_what_arrives(site, batches):
    site.add("a.pt", "b.pt", "c.pt")
    site.target.mkdir()
    for name in ("a.pt", "b.pt"):
        (site.target / name).write_bytes(site.contents[name])
    report = site.run()
    assert sorted(report.kept) == ["a.pt", "b.pt"]
    assert sorted(batches) == [["a.pt", "b.pt"], ["c.pt.partial"]]


@pytest.mark.parametrize("standing", [False, True])
def test_ctrl_c_ends_a_check_at_once(site, batches, monkeypatch, standing):
    """Nothing is lost by it: the next run fetches nothing."""
    site.add("a.pt")
    if standing:
        site.target.mkdir()
        (site.target / "a.pt").write_bytes(site.contents["a.pt"])
    real = checker.hash_files

    def hash_files(paths, algorithm, *, advance, **settings):
        def interrupted(num_bytes):
            threading.Event().wait(0.1)  # the main thread has come to wait for the digest
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            threading.Event().wait(0.1)  # and hears of it while this thread is at work
            advance(num_bytes)

        yield from real(paths, algorithm, advance=interrupted, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(checker, "hash_files", hash_files)
        with pytest.raises(KeyboardInterrupt):
            site.run()
    assert not [t for t in threading.enumerate() if t.name.startswith(("download", "hash"))]
    assert site.run().received_bytes == 0
    assert site.fetched() == site.contents


def test_an_error_of_the_transfer_ends_the_check_of_what_stands_there(site, monkeypatch):
    site.add("a.pt", "b.pt")
    site.target.mkdir()
    (site.target / "a.pt").write_bytes(site.contents["a.pt"])
    site.store.inject(Fault(status=403, code="RequestExpired"))
    real = checker.hash_files

    def hash_files(paths, algorithm, *, advance, **settings):
        def slow(num_bytes):
            stopped.wait(60)
            advance(num_bytes)

        yield from real(paths, algorithm, advance=slow, **settings)

    stopped, stop = threading.Event(), Session.stop
    monkeypatch.setattr(checker, "hash_files", hash_files)

    def stop_and_tell(session):
        stop(session)
        stopped.set()

    monkeypatch.setattr(Session, "stop", stop_and_tell)
    with pytest.raises(Exception, match="2 of 2 files are left"):
        site.run()


def test_what_had_arrived_before_an_error_gets_its_name(site, monkeypatch):
    monkeypatch.setattr(checker, "GATHER_S", 3600)
    site.add("a.pt", "b.pt")
    site.store.inject(Fault(status=403, code="RequestExpired"), file="b.pt")
    with pytest.raises(Exception, match="1 of 2 files are left"):
        site.run(max_connections=1)
    assert sorted(site.fetched()) == ["a.pt"]


def test_a_file_that_cannot_be_read_back_is_named(site, monkeypatch):
    site.add("a.pt")
    error = OSError(errno.EIO, os.strerror(errno.EIO))
    monkeypatch.setattr(checker, "hash_files", lambda paths, *_, **__: [(p, error) for p in paths])
    with pytest.raises(DestinationError, match=r"a\.pt\.partial: Input/output error"):
        site.run()


def test_files_under_way_together_need_space_together(site, monkeypatch):
    site.add("a.pt", "b.pt")
    free = type("usage", (), {"free": 7000})
    site.store.inject(Fault(stall_after=1000), times=2)
    monkeypatch.setattr("shutil.disk_usage", lambda path: free)
    with pytest.raises(
        NoSpaceError, match=r"needs 5000 bytes, 1 other files [45]\d{3}, and .* 7000"
    ):
        site.run(max_connections=2)
    monkeypatch.undo()
    site.run()
    assert site.fetched() == site.contents
