"""A 403 is the link's or one file's: S3 says the same of a key that does not exist."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from unshard.download import CommandSource, Link, PresignedTemplate, RetryPolicy, download
from unshard.download.doubt import Doubt
from unshard.download.response import InterruptedTransferError
from unshard.errors import LinkRefusedError, TransferError
from unshard.testing.object_store import Fault

DENIED = Fault(status=403)


def probes(site):
    return [r.name for r in site.store.requests if r.range == "bytes=0-0"]


@pytest.mark.parametrize("missing", ["a.pt", "c.pt"])
@pytest.mark.parametrize("max_connections", [1, 3])
def test_one_file_is_refused_and_the_others_arrive(site, missing, max_connections):
    """Whether it is asked for first, when nothing has been served yet, or later."""
    site.add("a.pt", "b.pt", "c.pt", "d.pt")
    site.store.inject(DENIED, file=missing, times=None)
    with pytest.raises(TransferError, match=rf"^{missing}: .*this one file .HTTP 403, Acc") as e:
        site.run(max_connections=max_connections)
    assert e.value.exit_code == 1
    assert "is it part of these weights?" in e.value.hint
    assert set(site.fetched()) == set(site.contents) - {missing}
    assert len(probes(site)) == 1
    assert site.requests(missing).count((None, 403)) == 1


def test_no_fresh_link_is_asked_for_because_of_one_file(site):
    site.add("a.pt", "b.pt")
    site.store.inject(DENIED, file="b.pt", times=None)
    link = Link(PresignedTemplate.parse(site.url), CommandSource("false"))
    with pytest.raises(TransferError, match="this one file"):
        download(link, site.manifest, site.target, retry=RetryPolicy(first_delay_s=0))
    assert set(site.fetched()) == {"a.pt"}


def test_a_file_that_came_and_comes_no_more_is_no_doubt(site):
    site.add("a.pt", "b.pt")
    site.store.inject(Fault(cut_after=2000), file="b.pt")
    site.store.inject(DENIED, file="b.pt")
    with pytest.raises(LinkRefusedError):
        site.run(max_connections=1)
    assert probes(site) == []


@pytest.mark.parametrize(
    "fault", [Fault(status=401), Fault(status=403, code="SignatureDoesNotMatch")]
)
def test_an_answer_that_speaks_of_the_link_is_no_doubt(site, fault):
    site.add("a.pt", "b.pt")
    site.store.inject(fault, file="a.pt", times=None)
    with pytest.raises(LinkRefusedError):
        site.run(max_connections=1)
    assert probes(site) == []


def test_a_busy_server_leaves_it_open_and_it_is_asked_again(site):
    site.add("a.pt", "b.pt")
    site.store.inject(DENIED, file="a.pt", times=2)
    site.store.inject(Fault(status=503), file="b.pt", times=1)
    with pytest.raises(TransferError, match=r"a\.pt: .*this one file"):
        site.run(max_connections=1)
    assert site.requests("a.pt") == [(None, 403)] * 2
    assert [status for asked, status in site.requests("b.pt") if asked] == [503, 206]


def test_of_eight_refused_at_once_one_asks():
    doubt, asked, all_refused = Doubt(), [], threading.Barrier(8)

    class Names(tuple):
        """Looked at by a thread that has seen how things stood, before it asks."""

        def __iter__(self):
            all_refused.wait(timeout=60)
            return super().__iter__()

    def probe(witness):
        asked.append(witness)
        return True

    doubt.serves("good")
    with ThreadPoolExecutor(8) as executor:
        refused = [executor.submit(doubt.is_of_file, f"{i}", Names(), probe) for i in range(8)]
        assert [future.result() for future in refused] == [True] * 8
    assert asked == ["good"]


def test_a_link_that_was_alive_is_asked_again_and_one_that_is_dead_is_not():
    doubt, answers = Doubt(), [True, False]
    doubt.serves("good")
    said = [doubt.is_of_file(f"{i}", (), lambda _: answers.pop(0)) for i in range(4)]
    assert said == [True, False, False, False]


def test_a_probe_that_fails_says_nothing():
    doubt = Doubt()

    def cut(_witness):
        raise InterruptedTransferError("cut")

    with pytest.raises(InterruptedTransferError):
        doubt.is_of_file("a", ("a", "b"), cut)
    assert doubt.is_of_file("a", ("a", "b"), lambda witness: witness == "b")


def test_the_only_file_is_the_link():
    assert not Doubt().is_of_file("a", ("a",), pytest.fail)
