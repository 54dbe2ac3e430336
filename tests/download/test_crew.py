"""The threads of a download end, whatever becomes of the others."""

from __future__ import annotations

import threading

import pytest

from unshard.errors import UnshardError


@pytest.fixture
def few_threads(monkeypatch):
    """The system gives a download two threads."""
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
    with pytest.raises(UnshardError, match="3 connections: the system gives no more"):
        site.run(max_connections=3)
    assert len(few_threads) == 2
    assert not any(thread.is_alive() for thread in few_threads)


def test_what_there_is_needs_no_threads(site, few_threads):
    site.add("a.pt")
    site.run(max_connections=2)
    site.run(max_connections=3)
    assert len(few_threads) == 2
