"""Files that other tools left: continued where they are the beginning of what is wanted."""

from __future__ import annotations

import pytest

from unshard.download import RetryPolicy
from unshard.errors import DestinationError, TransferError
from unshard.testing.object_store import Fault

SIZE = 5000


@pytest.fixture
def half(site):
    """A site, and half of its only file under the final name, as wget leaves it."""
    site.add("a.pt", size=SIZE)
    site.target.mkdir()
    (site.target / "a.pt").write_bytes(site.contents["a.pt"][:2000])
    return site


def test_the_beginning_of_a_file_is_continued(half):
    report = half.run()
    assert half.requests() == [("bytes=2000-", 206)]
    assert report.received_bytes == SIZE - 2000
    assert half.fetched() == half.contents
    assert half.progress.done_bytes == SIZE


def test_what_was_continued_continues_after_a_cut_and_in_the_next_run(half):
    half.store.inject(Fault(cut_after=1000), times=2)
    half.run()
    asked = [asked for asked, _ in half.requests()]
    assert asked == ["bytes=2000-", "bytes=3000-", "bytes=4000-"]
    assert half.fetched() == half.contents


def test_other_bytes_are_found_out_and_started_anew(half):
    content = bytearray(half.contents["a.pt"][:2000])
    content[1234] ^= 1
    (half.target / "a.pt").write_bytes(content)
    half.store.inject(Fault())
    half.store.inject(Fault(wrong_bytes=True))  # a fresh copy may still be wrong once
    half.run()
    assert half.requests() == [("bytes=2000-", 206), (None, 200), (None, 200)]
    assert half.fetched() == half.contents
    assert half.progress.done_bytes == SIZE


@pytest.mark.parametrize(
    "length", [0, SIZE, SIZE + 100], ids=["empty", "as long, but other bytes", "longer"]
)
def test_what_cannot_be_the_beginning_is_replaced(half, length):
    (half.target / "a.pt").write_bytes(b"PK" * (length // 2))
    half.run()
    assert half.requests()[-1] == (None, 200)
    assert half.fetched() == half.contents


@pytest.mark.parametrize(
    "fault", [{"ignore_range": True}, {"no_etag": True}, {"wrong_range": True}], ids=str
)
def test_a_server_that_cannot_continue_it_sends_all_of_it(half, fault):
    half.store.inject(Fault(**fault), times=None)
    half.run()
    assert half.requests()[-1][1] == 200
    assert half.fetched() == half.contents


def test_what_begins_like_no_checkpoint_stays_until_it_is_replaced(half):
    """A login page, say: it is not even asked whether it can be continued."""
    (half.target / "a.pt").write_bytes(b"<html>")
    half.store.inject(Fault(cut_after=1000), times=None)
    with pytest.raises(TransferError):
        half.run(retry=RetryPolicy(attempts=1))
    assert half.requests()[0] == (None, 200)
    assert half.fetched() == {"a.pt": b"<html>"}


def test_it_keeps_its_name_until_the_server_continues_it(half):
    half.store.inject(Fault(status=404))
    with pytest.raises(TransferError, match="no such file"):
        half.run()
    assert half.fetched() == {"a.pt": half.contents["a.pt"][:2000]}
    assert half.partials() == {}


def test_a_busy_server_is_asked_for_the_rest_again(half):
    half.store.inject(Fault(status=503))
    half.run()
    assert half.requests() == [("bytes=2000-", 503), ("bytes=2000-", 206)]


def test_files_of_aria2_have_holes_and_are_not_continued(half):
    (half.target / "a.pt.aria2").write_bytes(b"\0\1")
    half.run()
    assert half.requests() == [(None, 200)]
    assert half.fetched() == half.contents
    assert [note for note in half.progress.notes if "aria2 left it with holes" in note]


def test_without_a_digest_nothing_is_continued(half):
    half.run(["a.pt"])
    assert half.requests() == [("bytes=0-0", 206), (None, 200)]
    assert half.fetched() == half.contents
    assert "a.pt: not known to be whole; fetching it again" in half.progress.notes


@pytest.fixture
def whole(half):
    """All of the file, which no manifest and no journal knows, and a server like S3."""
    (half.target / "a.pt").write_bytes(half.contents["a.pt"])
    half.store.inject(Fault(md5_etag=True), times=None)
    return half


def test_an_etag_that_is_an_md5_tells_that_a_file_is_whole(whole):
    inode = (whole.target / "a.pt").stat().st_ino
    report = whole.run(["a.pt"])
    assert whole.requests() == [("bytes=0-0", 206)]
    assert (report.kept, report.received_bytes, report.is_verified) == (("a.pt",), 0, False)
    assert whole.progress.done_bytes == whole.progress.total_bytes == SIZE
    assert (whole.target / "a.pt").stat().st_ino == inode
    assert whole.partials() == {}
    whole.run(["a.pt"])
    assert len(whole.requests()) == 1, "it is remembered"
    whole.url = whole.store.presigned_url(folder="/other/")
    with pytest.raises(DestinationError, match="other weights"):
        whole.run(["a.pt"])


@pytest.mark.parametrize("ignores", [{}, {"ignore_range": True}], ids=["ranges", "no ranges"])
def test_an_etag_that_is_another_md5_has_the_file_fetched(whole, ignores):
    content = bytearray(whole.contents["a.pt"])
    content[1234] ^= 1
    (whole.target / "a.pt").write_bytes(content)
    whole.store.heal()
    whole.store.inject(Fault(md5_etag=True, **ignores), times=None)
    report = whole.run(["a.pt"])
    assert [asked for asked, _ in whole.requests()] == ["bytes=0-0", None]
    assert (report.fetched, report.received_bytes) == (("a.pt",), SIZE)
    assert whole.fetched() == whole.contents
    assert whole.progress.done_bytes == SIZE
    assert "a.pt: is not what the server has; fetching it again" in whole.progress.notes


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (lambda content: content[:-1], {"md5_etag": True}),
        (lambda content: content, {}),
        (lambda content: content, {"md5_etag": True, "changed_etag": True}),
        (lambda content: content, {"no_etag": True}),
    ],
    ids=["another length", "no md5", "of several uploads", "none"],
)
def test_where_the_etag_does_not_tell_the_file_is_fetched(whole, content, fault):
    (whole.target / "a.pt").write_bytes(content(whole.contents["a.pt"]))
    whole.store.heal()
    whole.store.inject(Fault(**fault), times=None)
    whole.run(["a.pt"])
    assert whole.requests() == [("bytes=0-0", 206), (None, 200)]
    assert whole.fetched() == whole.contents


def test_an_etag_is_asked_for_until_it_comes(whole):
    whole.store.heal()
    whole.store.inject(Fault(status=503))
    whole.store.inject(Fault(md5_etag=True), times=None)
    whole.run(["a.pt"])
    assert [status for _, status in whole.requests()] == [503, 206]


def test_an_object_that_is_empty_by_now_takes_the_place_of_a_file(whole):
    whole.store.put("a.txt", b"")
    (whole.target / "a.txt").write_bytes(b"something")
    whole.run(["a.txt"])
    assert whole.requests() == [("bytes=0-0", 416), (None, 200)]
    assert (whole.target / "a.txt").read_bytes() == b""


def test_a_kept_file_is_right_by_the_manifest_though_the_etag_is_another(whole):
    whole.store.heal()
    whole.run()
    assert whole.requests() == []


def test_what_an_earlier_run_left_comes_first(site):
    site.add("a.pt", size=SIZE)
    site.store.inject(Fault(cut_after=3000))
    site.store.inject(Fault(status=404))
    with pytest.raises(TransferError, match="no such file"):
        site.run()
    (site.target / "a.pt").write_bytes(site.contents["a.pt"][:2000])
    site.run()
    assert site.requests()[-1] == ("bytes=3000-", 206)
    assert site.fetched() == site.contents


def test_a_whole_file_of_other_weights_is_no_beginning(site):
    """It keeps its name and its bytes until the right ones have arrived."""
    site.add("a.pt", size=2000)
    site.run()
    before = site.fetched()
    site.add("a.pt", size=SIZE)
    site.store.inject(Fault(cut_after=1000))
    with pytest.raises(TransferError):
        site.run(retry=RetryPolicy(attempts=1))
    assert site.requests()[-1] == (None, 200)
    assert site.fetched() == before
    site.run()
    assert site.fetched() == site.contents
