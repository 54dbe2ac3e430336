"""Whoever works on while the rest downloads hears of each file once it is whole, and no sooner."""

from __future__ import annotations

import pytest

from unshard.errors import DigestError
from unshard.testing.object_store import Fault


def test_every_file_is_told_once_it_is_whole(site):
    site.add("a.pt", "b.pt", "c.pt")
    told = {}

    def on_file(name):
        assert name not in told
        told[name] = (site.target / name).read_bytes()

    site.run(on_file=on_file)
    assert told == site.contents
    told.clear()
    assert len(site.run(on_file=on_file).kept) == 3
    assert told == site.contents


def test_a_wrong_file_is_never_told(site):
    site.add("a.pt", "b.pt")
    site.store.inject(Fault(wrong_bytes=True), file="b.pt", times=None)
    told = []
    with pytest.raises(DigestError):
        site.run(on_file=told.append)
    assert told == ["a.pt"]


def test_an_error_of_the_listener_ends_the_download(site):
    site.add("a.pt", "b.pt", "c.pt")

    def on_file(name):
        raise RuntimeError(name)

    with pytest.raises(RuntimeError, match=r"a\.pt"):
        site.run(on_file=on_file, max_connections=1)


def test_a_listener_that_failed_is_told_no_more(site):
    site.add("a.pt", "b.pt", "c.pt")
    told = []

    def on_file(name):
        told.append(name)
        raise DigestError("not as planned")

    with pytest.raises(DigestError, match="not as planned"):
        site.run(on_file=on_file)
    assert len(told) == 1
