"""The smoothed rate and the time left, which all displays share."""

from __future__ import annotations

import pytest
from tests.cli.watched_work import WatchedWork

from unshard.cli.quantities import format_duration
from unshard.cli.standing import Figures, SmoothRate, Standing
from unshard.progress import FileCount, Files, Silent

MB = 10**6


@pytest.mark.parametrize("seconds_between_looks", [0.25, 1.0, 60.0])
def test_a_steady_rate_is_that_rate(seconds_between_looks: float) -> None:
    rate = SmoothRate()
    for look in range(20):
        rate.look(look * seconds_between_looks, round(look * seconds_between_looks * MB))
    assert rate.per_second == pytest.approx(MB)


def test_a_burst_is_smoothed_and_a_stall_is_told_in_time() -> None:
    rate = SmoothRate(smoothing_s=15)
    for second in range(61):
        rate.look(second, second * MB)
    rate.look(61, 60 * MB + 30 * MB)
    assert MB < rate.per_second < 4 * MB
    for second in range(62, 122):
        rate.look(second, 90 * MB)
    assert rate.per_second < 0.1 * MB


def test_what_was_done_before_and_the_wait_for_the_first_byte_are_no_rate() -> None:
    rate = SmoothRate()
    for second in range(30):
        rate.look(second, 500 * MB)
    assert rate.per_second == 0
    rate.look(30, 501 * MB)
    assert rate.per_second == MB


def test_a_file_that_starts_anew_makes_no_negative_rate() -> None:
    rate = SmoothRate()
    for second, done in enumerate([0, MB, 2 * MB, 0, MB]):
        rate.look(second, done)
    assert 0 < rate.per_second <= MB


def test_many_looks_in_one_moment_count_once() -> None:
    rate = SmoothRate()
    for look in range(1001):
        rate.look(look / 1000, look * 1000)
    assert rate.per_second == pytest.approx(MB, rel=0.01)


def standing(work: WatchedWork) -> Standing:
    standing = Standing(work.clock)
    standing.start("download", 1000 * MB, work.files)
    return standing


def test_checked_bytes_bring_the_end_no_nearer_than_received_ones_do() -> None:
    work = WatchedWork()
    download = standing(work)
    work.connect(0)
    work.connect(1, is_check=True)
    for _ in range(10):
        work.now += 1
        download.advance(work.receive(MB))
        download.advance(50 * MB)
    figures = download.figures()
    assert figures
    assert figures.rate == pytest.approx(MB)
    assert figures.left_s == pytest.approx(490)


def test_while_files_are_only_checked_their_rate_is_told() -> None:
    work = WatchedWork()
    download = standing(work)
    work.connect(1, is_check=True)
    for _ in range(10):
        work.now += 1
        download.advance(50 * MB)
    figures = download.figures()
    assert figures
    assert figures.left_s == pytest.approx(10, rel=0.01)


def test_no_end_is_told_of_what_has_stopped() -> None:
    work = WatchedWork()
    download = standing(work)
    for _ in range(10):
        work.now += 1
        download.advance(work.receive(MB))
    assert (figures := download.figures())
    assert figures.left_s == pytest.approx(990)
    work.now += 3600
    assert (figures := download.figures())
    assert figures.left_s is None


def test_work_without_a_network_has_the_rate_of_what_is_done() -> None:
    work = WatchedWork()
    verify = Standing(work.clock)
    count = FileCount(Silent(), 3)
    verify.start("verify", 100 * MB, count.look)
    verify.advance(0)
    for name in "ab":
        work.now += 1
        verify.advance(10 * MB)
        count.done(name)
    assert (figures := verify.figures())
    assert figures.files == Files(2, 3, None, ())
    assert figures.left_s == pytest.approx(8)


def test_the_same_work_with_other_files_is_another() -> None:
    verify, first, second = Standing(), FileCount(Silent(), 3), FileCount(Silent(), 1)
    verify.start("verify", 30, first.look)
    verify.advance(30)
    assert not verify.is_another("verify", first.look)
    verify.start("verify", 5, second.look)
    assert (figures := verify.figures())
    assert (figures.done_bytes, figures.files) == (0, second.look())


def test_a_better_total_of_the_same_work_keeps_what_was_done() -> None:
    work = WatchedWork()
    download = standing(work)
    download.advance(5)
    assert not download.is_another("download", work.files)
    download.start("download", 20, work.files)
    assert (figures := download.figures())
    assert (figures.done_bytes, figures.total_bytes) == (5, 20)
    assert download.is_another("verify", None)
    download.start("verify", 30, None)
    assert download.figures() == Figures("verify", 0, 30, 0.0, None)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (3569, "59 min"), (3599, "1 h 00 min"),
     (35_900, "9 h 58 min"), (111_900, "31 h"), (86_400 * 4.25, "4.2 days")],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
