"""A download with a bound on its rate keeps to it over all its connections together."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unshard.download.rate import RateLimit
from unshard.errors import UsageError


@given(
    rate=st.integers(1, 10**9),
    arrivals=st.lists(st.tuples(st.floats(0, 10), st.integers(1, 2**20)), min_size=1),
)
def test_whoever_waits_as_told_keeps_to_the_rate(rate, arrivals):
    now = 100.0
    limit = RateLimit(rate, clock=lambda: now)
    for idle_s, num_bytes in arrivals:
        now += idle_s
        now += limit.wait_s(num_bytes)
    total_bytes = sum(num_bytes for _, num_bytes in arrivals)
    assert (now - 100) * rate >= total_bytes * (1 - 1e-6) - 1e-3


def test_connections_share_the_rate():
    limit = RateLimit(1000, clock=lambda: 5.0)
    assert [limit.wait_s(500) for _ in range(3)] == [0.5, 1.0, 1.5]


@pytest.mark.parametrize(("max_rate", "connections"), [(1, 1), (50_000, 1), (2**20, 20)])
def test_a_low_rate_has_few_connections_that_none_is_silent_for_long(max_rate, connections):
    assert RateLimit(max_rate).connections == connections


def test_a_download_takes_as_long_as_its_rate_wants(site):
    site.add("a.pt", "b.pt", size=5000)
    started = time.monotonic()
    site.run(max_rate=50_000)
    assert time.monotonic() - started >= 0.2
    assert site.fetched() == site.contents


@pytest.mark.parametrize("max_rate", [0, -1])
def test_no_rate_at_all_is_refused(site, max_rate):
    with pytest.raises(UsageError, match="max_rate"):
        site.run(["a.pt"], max_rate=max_rate)
