"""What the server or the disk refuses: said in plain words, with nothing lost."""

from __future__ import annotations

import errno
import os
import threading

import pytest

from unshard.download import RetryPolicy
from unshard.download.journal import Journal
from unshard.errors import (
    DestinationError,
    DigestError,
    LinkRefusedError,
    NoSpaceError,
    TransferError,
    UsageError,
)
from unshard.testing.object_store import Fault


def test_a_link_refused_mid_set_keeps_partials_and_counts_what_is_left(site):
    site.add("a.pt", "b.pt", "c.pt", "d.pt")
    site.store.inject(Fault(cut_after=2000), file="b.pt")
    site.store.inject(Fault(status=403), file="b.pt")
    with pytest.raises(LinkRefusedError, match=r"b\.pt.*HTTP 403, AccessDenied.*3 of 4 files") as e:
        site.run(max_connections=1)
    assert e.value.exit_code == 4
    assert "fresh link" in e.value.hint
    assert site.partials() == {"b.pt.partial": 2000}
    assert sorted(site.fetched()) == ["a.pt"]
    assert site.requests("c.pt") == []
    site.store.inject(Fault(status=401), file="c.pt")
    with pytest.raises(LinkRefusedError, match=r"c\.pt.*2 of 4 files are left \(about 10\.0 kB"):
        site.run(max_connections=1)


def test_what_is_left_is_told_in_bytes_as_far_as_sizes_are_known(site):
    site.add("a.pt", "b.pt", size=5000)
    site.store.inject(Fault(status=403, code="RequestExpired"), times=None)
    with pytest.raises(LinkRefusedError, match=r"2 of 2 files are left\n"):
        site.run(max_connections=1)
    site.store.heal()
    site.store.inject(Fault(cut_after=2000), file="a.pt")
    site.store.inject(Fault(status=403, code="RequestExpired"), times=None, file="a.pt")
    with pytest.raises(LinkRefusedError, match=r"2 of 2 files are left \(about 8\.0 kB\)\n"):
        site.run(max_connections=1)
    site.store.heal()
    site.store.inject(Fault(status=403, code="RequestExpired"), file="b.pt")
    with pytest.raises(LinkRefusedError, match=r"1 of 2 files are left \(about 5\.0 kB\)\n"):
        site.run(max_connections=1)
    site.store.inject(Fault(cut_after=1000), file="b.pt")
    site.store.inject(Fault(status=403, code="RequestExpired"), file="b.pt")
    with pytest.raises(LinkRefusedError, match=r"1 of 2 files are left \(4\.0 kB\)\n"):
        site.run(max_connections=1)


def test_an_expired_link_says_when_it_ended(site):
    site.add("a.pt")
    site.url = site.store.presigned_url(expires_in_s=-7200)
    with pytest.raises(
        LinkRefusedError, match=r"which expired on \d{4}-\d\d-\d\d at \d\d:\d\d UTC"
    ):
        site.run()
    assert site.requests() == [(None, 403)]


def test_a_link_withdrawn_early_says_so(site):
    site.add("a.pt")
    site.store.expire_links()
    with pytest.raises(LinkRefusedError, match="though it should be good until"):
        site.run()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(html=True), "a web page or an error document"),
        (Fault(gzip=True), "compressed"),
        (Fault(status=404), "no such file"),
        (Fault(status=302), "redirects"),
        (Fault(status=418), "HTTP 418"),
    ],
)
def test_an_answer_that_is_not_the_file_is_named_and_not_kept(site, fault, words):
    site.add("a.pt")
    site.store.inject(fault, times=None)
    with pytest.raises(TransferError, match=rf"a\.pt: .*{words}"):
        site.run()
    assert site.partials() == site.fetched() == {}
    assert len(site.store.requests) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x80\x02}q\x00." * 100, "does not begin like a checkpoint"),
        (b"", "does not begin like a checkpoint"),
        (b"\n<?xml version='1.0'?><Error/>" + b" " * 100, "web page or an error document"),
    ],
)
def test_a_body_that_is_no_checkpoint_is_refused_at_its_first_bytes(site, content, words):
    site.store.put("a.pt", content)
    with pytest.raises(TransferError, match=words):
        site.run(["a.pt"])
    assert site.partials() == site.fetched() == {}


def test_a_web_page_does_not_cost_the_bytes_that_are_there(site):
    site.add("a.pt")
    site.store.inject(Fault(cut_after=3000))
    site.store.inject(Fault(html=True))
    with pytest.raises(TransferError, match="web page"):
        site.run()
    assert site.partials() == {"a.pt.partial": 3000}
    site.run()
    assert site.fetched() == site.contents


def test_attempts_are_bounded_and_other_files_go_on(site):
    site.add("a.pt", "b.pt", "c.pt")
    site.store.inject(Fault(status=503), file="b.pt", times=None)
    with pytest.raises(TransferError, match=r"b\.pt: given up after 3 attempts.*HTTP 503"):
        site.run(retry=RetryPolicy(attempts=3, first_delay_s=0))
    assert len(site.requests("b.pt")) == 3
    assert sorted(site.fetched()) == ["a.pt", "c.pt"]


def test_many_failures_in_a_row_stop_everything(site):
    names = [f"{i}.pt" for i in range(30)]
    site.add(*names)
    site.store.inject(Fault(status=404), times=None)
    with pytest.raises(TransferError, match="8 of 30 files failed"):
        site.run(max_connections=1)
    assert len(site.store.requests) < 12


@pytest.mark.parametrize("max_connections", [1, 4])
def test_many_failures_in_a_row_stop_everything_while_the_main_thread_is_busy(
    site, max_connections
):
    """No thread begins a file after the last of them, however late the main thread hears."""
    site.add("there.pt", *(f"{i}.pt" for i in range(30)))
    site.target.mkdir()
    (site.target / "there.pt").write_bytes(site.contents["there.pt"])
    site.store.inject(Fault(status=404), times=None)
    with pytest.raises(TransferError, match=r"\d+ of 31 files failed"):
        site.run(max_connections=max_connections, on_file=lambda _: await_fetching())
    num_requests = len(site.requests())
    assert 8 <= num_requests <= 8 + max_connections - 1  # the others had begun


def test_failures_with_a_file_brought_in_between_stop_nothing(site):
    site.add(*(f"{i}.pt" for i in range(16)))
    for name in site.contents.keys() - {"7.pt", "15.pt"}:
        site.store.inject(Fault(status=404), file=name, times=None)
    with pytest.raises(TransferError, match="14 of 16 files failed"):
        site.run(max_connections=1)
    assert site.fetched().keys() == {"7.pt", "15.pt"}


def test_many_wrong_files_in_a_row_stop_everything(site, monkeypatch):
    monkeypatch.setattr("unshard.download.checker.GATHER_S", 3600)  # judged in one batch
    site.add(*(f"{i}.pt" for i in range(12)))
    site.store.inject(Fault(wrong_bytes=True), times=None)
    with pytest.raises(DigestError, match="8 of 12 files failed"):
        site.run()


def await_fetching() -> None:
    """Until no thread fetches, or all could be fetched."""
    for thread in threading.enumerate():
        if thread.name.startswith("download-") and thread.name != "download-sync":
            thread.join(timeout=5)


def test_a_server_that_ignores_ranges_and_always_cuts_ends_the_attempts(site):
    site.add("a.pt")
    site.store.inject(Fault(cut_after=3000, ignore_range=True), times=None)
    with pytest.raises(TransferError, match="given up after 10 attempts"):
        site.run()
    assert any("ignores ranges" in note for note in site.progress.notes)


def test_a_stalled_connection_is_given_up_and_continued(site):
    site.add("a.pt")
    site.store.inject(Fault(stall_after=1000))
    site.run(stall_timeout_s=0.5)
    assert site.requests()[-1] == ("bytes=1000-", 206)
    assert site.fetched() == site.contents
    assert any("went silent after 1000 of 5000 bytes" in note for note in site.progress.notes)


def test_the_wait_is_the_servers_wish_or_grows_to_a_bound():
    policy = RetryPolicy()
    assert policy.delay_s(1, 7.0) == 7.0
    assert policy.delay_s(1, 1e9) == 600.0
    assert 0.5 <= policy.delay_s(1, None) <= 1
    assert 30 <= policy.delay_s(20, None) <= 60


def test_retry_after_is_honoured(site):
    site.add("a.pt")
    site.store.inject(Fault(status=429, retry_after_s=0))
    site.run(retry=RetryPolicy(first_delay_s=3600, longest_delay_s=3600))
    assert site.fetched() == site.contents
    assert any("HTTP 429); again in 0 s" in note for note in site.progress.notes)


def test_a_refused_link_ends_the_other_transfers_at_once(site):
    site.add("a.pt", "b.pt")
    site.store.inject(Fault(stall_after=1000), file="a.pt")
    site.store.inject(Fault(cut_after=1000), file="b.pt")
    site.store.inject(Fault(status=403), file="b.pt")
    with pytest.raises(LinkRefusedError):  # well before the stall of an hour is over
        site.run(stall_timeout_s=3600)
    assert site.partials()["b.pt.partial"] == 1000
    assert site.fetched() == {}


def test_a_full_disk_needs_a_person_and_keeps_what_arrived(site, monkeypatch):
    site.add("a.pt", size=600_000)
    real, budget = os.pwrite, [300_000]

    def pwrite(fd, view, offset):
        if budget[0] <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = real(fd, view[: budget[0]], offset)
        budget[0] -= written
        return written

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(NoSpaceError, match=r"No space left.*1 of 1 files are left"):
        site.run()
    kept = site.partials()["a.pt.partial"]
    assert kept == 300_000
    monkeypatch.undo()
    site.run()
    assert site.requests()[-1] == (f"bytes={kept}-", 206)
    assert site.fetched() == site.contents


def test_a_file_larger_than_the_free_space_is_not_begun(site, monkeypatch):
    site.add("a.pt")
    free = type("usage", (), {"free": 4999})
    monkeypatch.setattr("shutil.disk_usage", lambda path: free)
    with pytest.raises(NoSpaceError, match=r"needs 5000 bytes.* 4999 free"):
        site.run()
    assert site.partials() == {}


@pytest.mark.parametrize("name", ["../a.pt", "/etc/passwd", "a/b.pt", ".hidden", "a\nb.pt", ""])
def test_a_name_that_leaves_the_folder_is_refused_before_anything_is_done(site, name):
    with pytest.raises(UsageError):
        site.run([name])
    assert not site.target.exists()
    assert site.store.requests == []


@pytest.mark.parametrize("link", ["a.pt", "a.pt.partial", ".unshard-download.jsonl"])
def test_a_link_in_the_folder_is_not_written_through(site, tmp_path, link):
    site.add("a.pt")
    site.target.mkdir()
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    (site.target / link).symlink_to(outside)
    with pytest.raises(DestinationError, match=link):
        site.run()
    assert outside.read_bytes() == b"precious"


@pytest.mark.parametrize("name", ["a.pt", "a.pt.partial", ".unshard-download.jsonl"])
def test_a_pipe_in_the_folder_is_neither_waited_for_nor_removed(site, name):
    site.add("a.pt")
    site.target.mkdir()
    os.mkfifo(site.target / name)
    with pytest.raises(DestinationError, match=f"{name}: is"):
        site.run()
    assert (site.target / name).is_fifo()


def test_no_connections_are_refused(site):
    with pytest.raises(UsageError, match="max_connections: 0"):
        site.run(["a.pt"], max_connections=0)


def test_two_downloads_do_not_share_a_folder(site):
    site.add("a.pt")
    site.target.mkdir()
    with Journal(site.target), pytest.raises(DestinationError, match="another download"):
        site.run()
    site.run()


def test_a_manifest_of_other_files_is_refused_at_once(site):
    site.add("other.pt")
    site.url = site.store.presigned_url("reshard-model_part-*.pt")
    with pytest.raises(UsageError, match=r"other\.pt: the URL is for reshard"):
        site.run()
    assert site.store.requests == []


def test_a_text_file_need_not_look_like_a_checkpoint(site):
    site.store.put("dict.txt", b"4 1\n")
    site.run(["dict.txt"])
    assert (site.target / "dict.txt").read_bytes() == b"4 1\n"
    site.store.put("empty.txt", b"")
    site.run(["empty.txt"])
    assert (site.target / "empty.txt").read_bytes() == b""


def test_names_with_strange_characters_arrive_under_the_same_name(site):
    name = "a b%20#?ü&=+.pt"
    site.add(name)
    site.run()
    assert site.fetched() == site.contents
