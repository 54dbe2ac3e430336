"""The threads of a download end, whatever becomes of the others."""

from __future__ import annotations

import threading

import pytest

from unshard.download.journal import Journal
from unshard.download.partial import Partial
from unshard.errors import DestinationError, UnshardError


@pytest.fixture
def few_threads(monkeypatch):
    """The system gives a download two threads: one brings files, one syncs."""
    begun, start = [], threading.Thread.start

    def scarce(thread):
        if thread.name.startswith("download-"):
            if len(begun) == 2:
                raise RuntimeError("can't start new thread")
            begun.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", scarce)
    return begun


def test_where_the_system_gives_too_few_threads_those_that_run_are_ended(site, few_threads):
    site.add("a.pt")
    with pytest.raises(UnshardError, match="2 connections: the system gives no more"):
        site.run(max_connections=2)
    assert len(few_threads) == 2
    assert not any(thread.is_alive() for thread in few_threads)


def test_what_there_is_needs_no_threads(site, few_threads):
    site.add("a.pt")
    site.run(max_connections=1)
    site.run(max_connections=2)
    assert len(few_threads) == 2


@pytest.mark.parametrize("most_unsynced", [8, 1])
def test_no_file_is_remembered_before_it_is_synced(site, monkeypatch, most_unsynced):
    names = [f"{n}.pt" for n in range(20)]
    site.add(*names)
    steps, sync, finish = [], Partial.sync, Journal.finish

    def synced(partial):
        sync(partial)
        steps.append(("synced", partial._path.name.removesuffix(".partial")))

    def finished(journal, facts):
        steps.extend(("finished", name) for name in facts)
        finish(journal, facts)

    monkeypatch.setattr("unshard.download.crew.MOST_UNSYNCED", most_unsynced)
    monkeypatch.setattr(Partial, "sync", synced)
    monkeypatch.setattr(Journal, "finish", finished)
    site.run(max_connections=4)
    assert sorted(name for what, name in steps if what == "finished") == sorted(names)
    for name in names:
        assert steps.index(("synced", name)) < steps.index(("finished", name))


def test_what_is_brought_when_the_disk_fails_another_file_is_kept(site, monkeypatch):
    site.add("a.pt", "b.pt")
    sync, may_fail = Partial.sync, threading.Event()

    def failing(partial):
        if partial._path.name == "a.pt.partial" and not may_fail.is_set():
            may_fail.set()
            raise DestinationError("the disk fails")
        sync(partial)

    monkeypatch.setattr(Partial, "sync", failing)
    with pytest.raises(DestinationError, match="the disk fails"):
        site.run(max_connections=2)
    site.run(max_connections=2)
    assert set(site.fetched()) >= {"a.pt", "b.pt"}
