"""Sizes cost one byte of each file; a rate is measured for a few seconds at most."""

from __future__ import annotations

import pytest

from unshard.download import PresignedTemplate, RetryPolicy
from unshard.download.measured_rate import measure_rate
from unshard.download.pieces import Pieces
from unshard.download.sizes import file_sizes
from unshard.errors import LinkRefusedError, TransferError
from unshard.testing.object_store import Fault

NAMES = [f"part-{number}.pt" for number in range(5)]


@pytest.fixture
def stocked(site):
    for number, name in enumerate(NAMES):
        site.add(name, size=1000 + number)
    return site


def pieces_of(site, attempts=3):
    return Pieces(
        PresignedTemplate.parse(site.url),
        max_connections=3,
        stall_timeout_s=20,
        retry=RetryPolicy(attempts=attempts, first_delay_s=0),
    )


def sizes(site, **settings):
    with pieces_of(site, **settings) as pieces:
        found = file_sizes(pieces, NAMES, workers=3)
    return found, pieces


def test_one_byte_of_each_file_is_asked_for(stocked):
    found, pieces = sizes(stocked)
    assert found == {name: 1000 + number for number, name in enumerate(NAMES)}
    assert sorted(stocked.requests()) == [("bytes=0-0", 206)] * 5
    assert (pieces.num_requests, pieces.received_bytes) == (5, 5)


def test_a_busy_server_is_asked_again(stocked):
    stocked.store.inject(Fault(status=503, retry_after_s=0), times=2)
    found, pieces = sizes(stocked)
    assert len(found) == 5
    assert pieces.num_requests == 7


def test_a_server_without_ranges_says_the_length_all_the_same(stocked):
    stocked.store.inject(Fault(ignore_range=True), times=None)
    found, pieces = sizes(stocked)
    assert found == {name: 1000 + number for number, name in enumerate(NAMES)}
    assert pieces.received_bytes == 0


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        (Fault(status=403), LinkRefusedError, "refuses the link"),
        (Fault(status=404), TransferError, "has no such file"),
        (Fault(html=True), TransferError, "web page"),
    ],
)
def test_what_is_no_file_is_an_error(stocked, fault, error, words):
    stocked.store.inject(fault, file=NAMES[3], times=None)
    with pytest.raises(error, match=words) as caught:
        sizes(stocked)
    assert "Signature" not in f"{caught.value}{caught.value.hint}"


def test_a_rate_is_of_the_bytes_that_came(stocked):
    measured = measure_rate(PresignedTemplate.parse(stocked.url), NAMES[:3], bytes_each=600)
    assert (measured.num_connections, measured.num_bytes) == (3, 1800)
    assert measured.bytes_per_s == pytest.approx(1800 / measured.elapsed_s)
    assert [request.range for request in stocked.store.requests] == ["bytes=0-599"] * 3


def test_a_silent_server_does_not_hold_it_up(stocked):
    stocked.store.inject(Fault(stall_after=100), times=None)
    measured = measure_rate(PresignedTemplate.parse(stocked.url), NAMES[:2], longest_s=0.5)
    assert measured.num_bytes == 200
    assert measured.elapsed_s > 0.1


def test_a_server_without_ranges_is_measured_too(stocked):
    stocked.store.inject(Fault(ignore_range=True), times=None)
    measured = measure_rate(PresignedTemplate.parse(stocked.url), NAMES[:1], bytes_each=500)
    assert measured.num_bytes >= 500


def test_no_byte_is_no_rate(stocked):
    template = PresignedTemplate.parse(stocked.url)
    stocked.store.inject(Fault(stall_after=0), times=None)
    with pytest.raises(TransferError):
        measure_rate(template, NAMES[:2], longest_s=0.2)
    stocked.store.heal()
    stocked.store.expire_links()
    with pytest.raises(LinkRefusedError, match="refuses the link"):
        measure_rate(template, NAMES[:2])
