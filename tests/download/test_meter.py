"""The one forecast: a link that ends before the download does; and who is at work."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from unshard.download.meter import SECONDS_TO_JUDGE_BY, Meter


def forecast(notes, tmp_path, *, link: timedelta | None, elapsed_s: float) -> list[str]:
    """What is said when 1 of 1000 equal files of 1 MB came in `elapsed_s` seconds."""
    now = 5.0
    end = datetime.now(UTC) + link if link is not None else None
    meter = Meter(notes, 1000, tmp_path, lambda: end, clock=lambda: now)
    meter.file_size("a", 1_000_000)
    for num_bytes, seconds in ((1, elapsed_s), (999_999, 0.0), (1, 0.0)):
        with meter.connection("a") as connection:
            connection.received(num_bytes)
        now += seconds
    return notes.notes


def test_a_link_that_ends_first_is_told_once(recorder, tmp_path):
    [line] = forecast(recorder(), tmp_path, link=timedelta(hours=22, minutes=10), elapsed_s=112.0)
    assert "takes 31 h at this rate (0.0 MB/s)" in line
    assert "the link ends in 22 h" in line


def test_minutes_are_told_as_minutes(recorder, tmp_path):
    link = timedelta(minutes=30, seconds=5)
    [line] = forecast(recorder(), tmp_path, link=link, elapsed_s=SECONDS_TO_JUDGE_BY)
    assert "takes 3 h at this rate (0.1 MB/s)" in line
    assert "the link ends in 30 min" in line


@pytest.mark.parametrize(
    ("link", "elapsed_s"),
    [
        (timedelta(hours=40), 112.0),  # it lasts
        (None, 112.0),  # it does not say when it ends
        (timedelta(hours=-1), 112.0),  # by its own account it is over, yet it works
        (timedelta(hours=1), SECONDS_TO_JUDGE_BY / 2),  # too early to judge
    ],
)
def test_nothing_is_said_where_there_is_nothing_to_fear(recorder, tmp_path, link, elapsed_s):
    assert forecast(recorder(), tmp_path, link=link, elapsed_s=elapsed_s) == []
