"""A file that several connections bring together, and servers that do not play along."""

from __future__ import annotations

import pytest

from unshard.download import RetryPolicy, shares
from unshard.download.file import FileDownload
from unshard.errors import DigestError, TransferError
from unshard.testing.object_store import Fault

SIZE = 400_000
HELD = 100_000
"""Bytes that the first connection brings before it goes silent."""


@pytest.fixture(autouse=True)
def small_shares(monkeypatch):
    monkeypatch.setattr(shares, "SMALLEST_SHARE_BYTES", 20_000)


@pytest.fixture
def held(site):
    """A site with one file, whose first connection is silent for a while in the midst of it."""
    site.add("a.pt", size=SIZE)
    site.store.inject(Fault(stall_after=HELD))
    return site


@pytest.fixture
def until_helped(held, monkeypatch):
    """Held up until another connection can help no more."""
    helps = FileDownload.help

    def help_and_go(file):
        has_helped = helps(file)
        if not (has_helped and file.share_bytes()):
            held.store.end_silence()
        return has_helped

    monkeypatch.setattr(FileDownload, "help", help_and_go)


@pytest.mark.usefixtures("until_helped")
def test_idle_connections_bring_the_rest_of_a_file(held):
    report = held.run(max_connections=4)
    assert held.fetched() == held.contents
    assert report.received_bytes == SIZE
    assert held.progress.done_bytes == SIZE
    ranges = [asked for asked, status in held.requests() if status == 206]
    assert len(ranges) > 3
    starts = [int(asked.removeprefix("bytes=").partition("-")[0]) for asked in ranges]
    assert sorted(starts)[1] > HELD + 20_000
    assert all(r.if_range for r in held.store.requests if r.range)


def test_small_files_are_not_shared(site):
    site.add("a.pt", "b.pt", size=30_000)
    site.run(max_connections=4)
    assert [status for _, status in site.requests()] == [200, 200]


@pytest.mark.usefixtures("until_helped")
@pytest.mark.parametrize(
    "fault",
    [
        Fault(ignore_range=True),
        Fault(wrong_range=True),
        Fault(changed_etag=True),
        Fault(status=416),
        Fault(status=404),
        Fault(status=403),
        Fault(html=True),
        Fault(gzip=True),
        Fault(no_etag=True),
    ],
    ids=repr,
)
def test_what_a_helper_gets_instead_of_its_range_costs_nothing(held, fault):
    held.store.inject(fault)
    report = held.run()
    assert report.received_bytes == SIZE
    assert held.requests()[2:] == [(f"bytes={HELD}-", 206)]
    assert held.fetched() == held.contents
    assert [note.partition(": ")[0] for note in held.progress.notes] == ["a.pt"]


@pytest.mark.usefixtures("until_helped")
@pytest.mark.parametrize(
    "fault", [Fault(cut_after=50_000), Fault(cut_after=0), Fault(status=503)], ids=repr
)
def test_a_helper_that_is_cut_goes_on(held, fault):
    held.store.inject(fault)
    report = held.run()
    assert report.received_bytes == SIZE
    assert held.fetched() == held.contents
    assert not [note for note in held.progress.notes if "anew" in note]


def test_a_server_without_strong_etags_is_asked_for_no_share(site):
    site.add("a.pt", size=SIZE)
    site.store.inject(Fault(stall_after=HELD, no_etag=True))
    site.run(max_connections=4, stall_timeout_s=0.25)
    assert site.requests() == [(None, 200), (None, 200)]
    assert site.fetched() == site.contents


@pytest.mark.usefixtures("until_helped")
def test_an_object_that_changes_while_it_is_shared_starts_anew(held):
    """The helper's If-Range brings the new object, which it leaves alone."""
    told = held.progress.advance

    def change(num_bytes):
        told(num_bytes)
        if held.num_objects == 1:
            held.add("a.pt", size=SIZE)

    held.progress.advance = change
    held.run(["a.pt"])
    assert held.fetched() == held.contents
    assert [n for n in held.progress.notes if "has changed on the server" in n]
    assert held.progress.done_bytes == SIZE


def test_a_shared_file_continues_in_the_next_run(held):
    held.store.inject(Fault(cut_after=70_000), times=3)
    held.store.inject(Fault(status=404))
    with pytest.raises(TransferError):
        held.run(retry=RetryPolicy(attempts=1, first_delay_s=0), stall_timeout_s=0.25)
    assert held.partials() == {"a.pt.partial": SIZE}
    first = held.progress.done_bytes
    assert HELD < first < SIZE
    held.store.heal()
    assert held.run().received_bytes == SIZE - first
    assert held.fetched() == held.contents


@pytest.mark.usefixtures("until_helped")
def test_wrong_bytes_by_a_helper_are_fetched_once_more(held):
    held.store.inject(Fault(wrong_bytes=True))
    held.run()
    assert held.fetched() == held.contents
    assert [n for n in held.progress.notes if "arrived with md5" in n and "fetching it again" in n]


@pytest.mark.usefixtures("until_helped")
def test_wrong_bytes_at_the_source_are_refused_the_second_time(held):
    held.store.inject(Fault(wrong_bytes=True), times=None)
    with pytest.raises(DigestError, match=r"a\.pt: arrived with md5 .*manifest says md5"):
        held.run()
    assert held.partials() == held.fetched() == {}
    assert held.progress.done_bytes == 0


def test_nobody_helps_while_a_server_wants_to_be_left_alone(site):
    site.add("a.pt")
    site.store.inject(Fault(cut_after=1000))
    site.store.inject(Fault(status=503, retry_after_s=60), times=None)
    soon = RetryPolicy(attempts=3, first_delay_s=0.2, longest_delay_s=0.05)
    with pytest.raises(TransferError, match="busy"):
        site.run(max_connections=16, retry=soon)
    assert len(site.requests()) <= 4  # 3, and one that may have begun before the first wait
