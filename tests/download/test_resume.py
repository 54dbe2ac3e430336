"""Any sequence of interruptions gives the same bytes as none, and no byte of another object."""

from __future__ import annotations

import hashlib
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unshard.download import PresignedTemplate, RetryPolicy, download
from unshard.errors import DigestError, TransferError
from unshard.manifest import Digest, Manifest
from unshard.progress import Silent
from unshard.testing.object_store import FakeObjectStore, Fault

LENGTH = 3000
OLD = b"PK" + random.Random(1).randbytes(LENGTH - 2)
NEW = b"PK" + random.Random(2).randbytes(LENGTH + 498)
AT_ONCE = RetryPolicy(first_delay_s=0)

faults = st.one_of(
    st.builds(Fault, cut_after=st.integers(0, LENGTH)),
    st.builds(Fault, cut_after=st.integers(0, LENGTH), ignore_range=st.just(True)),
    st.builds(Fault, cut_after=st.integers(0, LENGTH), changed_etag=st.just(True)),
    st.builds(Fault, cut_after=st.integers(0, LENGTH), no_etag=st.just(True)),
    st.builds(Fault, cut_after=st.integers(0, LENGTH), wrong_range=st.just(True)),
    st.builds(Fault, status=st.sampled_from([408, 429, 500, 502, 503])),
)


@pytest.fixture(scope="module")
def store():
    with tempfile.TemporaryDirectory() as directory, FakeObjectStore(directory) as store:
        yield store


def manifest_of(content: bytes) -> Manifest:
    return Manifest({"w.pt": Digest("md5", hashlib.md5(content).hexdigest())}, "m")


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sequence=st.lists(faults, max_size=9), runs=st.integers(1, 3), known=st.booleans())
def test_any_interruptions_give_the_same_bytes_as_none(store, recorder, sequence, runs, known):
    store.heal()
    store.put("w.pt", OLD)
    for fault in sequence:
        store.inject(fault)
    template = PresignedTemplate.parse(store.presigned_url())
    files = manifest_of(OLD) if known else ["w.pt"]
    with tempfile.TemporaryDirectory() as target:
        one_attempt = RetryPolicy(attempts=1, first_delay_s=0)
        for _ in range(runs):  # some of the faults end a whole run
            try:
                download(template, files, target, retry=one_attempt)
            except TransferError:
                continue
        progress = recorder()
        download(template, files, target, retry=AT_ONCE, progress=progress)
        assert Path(target, "w.pt").read_bytes() == OLD
        assert not list(Path(target).glob("*.partial"))
        assert progress.done_bytes in (0, LENGTH)  # 0: an earlier run had finished


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(64, LENGTH - 1), grows=st.booleans(), between_runs=st.booleans())
def test_an_object_that_changes_never_mixes(store, recorder, cut, grows, between_runs):
    new = NEW if grows else NEW[:LENGTH]
    store.heal()
    store.put("w.pt", OLD)
    store.inject(Fault(cut_after=cut))
    template = PresignedTemplate.parse(store.presigned_url())
    progress = recorder()
    swap = _SwapAtFirstNote(progress, lambda: store.put("w.pt", new))
    alone = {"retry": AT_ONCE, "max_connections": 1}  # another would bring the rest before the swap
    with tempfile.TemporaryDirectory() as target:
        if between_runs:
            with pytest.raises(TransferError):
                download(template, ["w.pt"], target, retry=RetryPolicy(attempts=1))
            store.put("w.pt", new)
            download(template, ["w.pt"], target, progress=progress)
        else:
            download(template, ["w.pt"], target, progress=swap, **alone)
        assert Path(target, "w.pt").read_bytes() == new
        assert progress.done_bytes == len(new)
    assert any("has changed on the server" in note for note in progress.notes)


class _SwapAtFirstNote(Silent):
    """Replaces the object when the first cut is reported, before the next request."""

    def __init__(self, progress, swap):
        self.start, self.advance = progress.start, progress.advance
        self.progress, self.swap = progress, swap

    def note(self, line):
        if not self.progress.notes:
            self.swap()
        self.progress.note(line)


def test_a_206_of_another_object_is_not_appended(site):
    site.add("a.pt", size=5000)
    site.store.inject(Fault(cut_after=2000))
    with pytest.raises(TransferError):
        site.run(["a.pt"], retry=RetryPolicy(attempts=1))
    site.add("a.pt", size=5000)  # other bytes, as long as before
    site.store.inject(Fault(ignore_if_range=True))
    site.run(["a.pt"])
    assert site.requests() == [(None, 200), ("bytes=2000-", 206), (None, 200)]
    assert site.fetched() == site.contents


def test_a_run_after_a_run_continues_at_the_byte(site):
    site.add("a.pt", size=5000)
    site.store.inject(Fault(cut_after=2000))
    with pytest.raises(TransferError, match=r"a\.pt: given up after 1 attempts"):
        site.run(retry=RetryPolicy(attempts=1))
    assert site.partials() == {"a.pt.partial": 2000}
    site.run()
    assert site.requests() == [(None, 200), ("bytes=2000-", 206)]
    assert site.fetched() == site.contents
    assert (site.progress.done_bytes, site.progress.total_bytes) == (2000 + 5000, 5000)


def test_a_fresh_link_continues_at_the_byte(site):
    site.add("a.pt", size=5000)
    site.store.inject(Fault(cut_after=3000))
    with pytest.raises(TransferError):
        site.run(retry=RetryPolicy(attempts=1))
    site.store.expire_links()
    site.url = site.store.presigned_url(template="*.pt")
    report = site.run()
    assert site.requests()[-1] == ("bytes=3000-", 206)
    assert report.received_bytes == 2000
    assert site.fetched() == site.contents


def test_a_complete_partial_needs_no_request(site):
    site.add("a.pt", size=5000)
    site.store.inject(Fault(cut_after=4999))
    with pytest.raises(TransferError):
        site.run(retry=RetryPolicy(attempts=1))
    with (site.target / "a.pt.partial").open("ab") as file:
        file.write(site.contents["a.pt"][-1:])
    assert site.run().received_bytes == 0
    assert len(site.store.requests) == 1
    assert site.fetched() == site.contents


def test_a_416_starts_the_file_anew(site):
    site.add("a.pt", size=5000)
    site.store.inject(Fault(cut_after=4000))
    site.store.inject(Fault(status=416))
    site.run()
    assert site.requests() == [(None, 200), ("bytes=4000-", 416), (None, 200)]
    assert site.fetched() == site.contents


def test_a_partial_that_the_journal_does_not_know_is_not_trusted(site):
    site.add("a.pt", size=5000)
    site.target.mkdir()
    (site.target / "a.pt.partial").write_bytes(b"PK" + b"x" * 3000)
    site.run(["a.pt"])
    assert site.requests() == [(None, 200)]
    assert site.fetched() == site.contents


def test_a_journal_line_cut_short_costs_only_that_line(site):
    site.add("a.pt", "b.pt")
    site.run()
    journal = site.target / ".unshard-download.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    report = site.run()
    assert len(site.store.requests) == 2
    assert sorted(report.kept) == ["a.pt", "b.pt"]
    assert all(line.startswith(b"{") for line in journal.read_bytes().splitlines())


def test_what_is_whole_is_not_fetched_or_even_read_again(site):
    site.add("a.pt", "b.pt", "c.pt")
    first = site.run()
    assert (sorted(first.fetched), first.kept) == (["a.pt", "b.pt", "c.pt"], ())
    (site.target / "a.pt").chmod(0)  # as root it can be read all the same; see `read` below
    read = site.progress.done_bytes
    second = site.run()
    assert (second.fetched, second.kept) == ((), ("a.pt", "b.pt", "c.pt"))
    assert site.progress.done_bytes == read
    assert len(site.store.requests) == 3


def test_a_file_changed_on_the_disk_is_fetched_again_alone(site):
    site.add("a.pt", "b.pt")
    site.run()
    (site.target / "b.pt").write_bytes(site.contents["b.pt"][:-1] + b"?")
    report = site.run()
    assert (report.fetched, report.kept) == (("b.pt",), ("a.pt",))
    assert site.fetched() == site.contents
    assert any("b.pt: on the disk it has md5" in note for note in site.progress.notes)


def test_files_brought_by_other_means_are_verified_and_kept(site):
    site.add("a.pt", "b.pt")
    site.target.mkdir()
    (site.target / "a.pt").write_bytes(site.contents["a.pt"])
    assert site.run().kept == ("a.pt",)
    assert site.requests("a.pt") == []


def test_wrong_bytes_on_the_way_are_fetched_once_more(site):
    site.add("a.pt")
    site.store.inject(Fault(wrong_bytes=True))
    site.run()
    assert site.requests() == [(None, 200), (None, 200)]
    assert site.fetched() == site.contents


def test_wrong_bytes_at_the_source_never_get_the_files_name(site):
    site.add("a.pt", "b.pt", "c.pt")
    site.store.inject(Fault(wrong_bytes=True), file="b.pt", times=None)
    with pytest.raises(DigestError, match=r"b\.pt: arrived with md5 .*manifest says md5"):
        site.run()
    assert sorted(site.fetched()) == ["a.pt", "c.pt"]
    assert site.partials() == {}
    assert len(site.requests("b.pt")) == 2
    assert sum("arrived with" in note for note in site.progress.notes) == 1  # the first time
