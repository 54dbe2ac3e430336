"""The one forecast: a link that ends before the download does; and who is at work."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from unshard.download.connection import SECONDS_BETWEEN_REPORTS
from unshard.download.meter import SECONDS_TO_JUDGE_BY, Meter
from unshard.progress import Busy, Files


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


def test_each_renewed_link_is_judged_by_the_rate_it_has(recorder, tmp_path):
    now, links = [0.0], [datetime.now(UTC) + timedelta(hours=1, seconds=5)]
    notes = recorder()
    meter = Meter(notes, 1000, tmp_path, lambda: links[-1], clock=lambda: now[0])
    meter.file_size("a", 1_000_000)

    def bring(num_bytes: int, seconds: int) -> None:
        for _ in range(seconds):
            now[0] += 1
            with meter.connection("a") as connection:
                connection.received(num_bytes)

    bring(1000, 100)
    assert len(notes.notes) == 1
    links.append(datetime.now(UTC) + timedelta(hours=40))
    now[0] += 7200  # a person looks for it
    bring(10_000, 5)
    assert len(notes.notes) == 1  # too early to judge
    bring(10_000, 100)
    assert len(notes.notes) == 1  # it lasts: 28 h at this rate
    links.append(datetime.now(UTC) + timedelta(hours=2, seconds=5))
    bring(10_000, 100)
    assert "takes 28 h at this rate (0.0 MB/s), and the link ends in 2 h" in notes.notes[1]
    assert len(notes.notes) == 2


@pytest.fixture
def watched(recorder, tmp_path):
    """A meter of 3 files, 2 more of which were whole, its Progress and its clock."""
    now, progress = [0.0], recorder()
    meter = Meter(progress, 3, tmp_path, lambda: None, num_whole=2, clock=lambda: now[0])
    meter.file_size("a", 1000)
    return meter, progress, now


def test_it_is_seen_who_is_at_work(watched):
    meter, progress, _ = watched
    with meter.connection("a") as first, meter.connection("a") as second:
        first.received(5)
        first.received(2)  # counted at once, though told later
        with meter.checking(["b"]) as advance:
            advance(100)
            assert progress.files() == Files(
                2, 5, 5, (Busy(0, ("a",), 7, 0, False), Busy(1, ("a",), 0, 0, False),
                          Busy(2, ("b",), 100, 0, True)),
            )  # fmt: skip
        second.received(1)
    assert progress.files() == Files(2, 5, 8, ())
    assert progress.done_bytes == 108
    with meter.connection("c"):
        assert progress.files().busy == (Busy(0, ("c",), 0, 7, False),)
    meter.file("a")
    assert progress.files().num_whole == 3


def test_chunks_are_told_together_but_none_is_lost(watched):
    meter, progress, now = watched
    told = []
    progress.advance = told.append
    with meter.connection("a") as connection:
        for _ in range(10):
            connection.received(1)
        now[0] += SECONDS_BETWEEN_REPORTS
        connection.received(1)
        connection.received(1)
    assert told == [1, 10, 1]
    with suppress(OSError), meter.connection("a") as connection:
        connection.received(3)
        connection.received(4)
        raise OSError("cut")
    assert told[3:] == [3, 4]
    assert meter.received_bytes == 19


def test_what_has_arrived_counts_once_though_it_is_checked(watched):
    meter, progress, _ = watched
    with meter.connection("a") as connection:
        connection.received(1000)
    with meter.checking(["a", "b"], have_counted=True) as advance:
        advance(1000)
        assert progress.files().busy == (Busy(0, ("a", "b"), 1000, 1000, True),)
    assert progress.done_bytes == meter.received_bytes == 1000


def test_looking_never_waits_for_who_is_told(watched):
    """A display may look at the files while it holds a lock that `advance` waits for."""
    meter, progress, _ = watched
    lock, looking = threading.Lock(), threading.Event()

    def advance(num_bytes: int) -> None:
        looking.set()
        with lock:
            pass

    progress.start = lambda *_arguments: advance(0)
    with ThreadPoolExecutor() as pool, lock:
        pool.submit(meter.file_size, ("b",), 2000)
        assert looking.wait(60)
        assert progress.files().num_files == 5
