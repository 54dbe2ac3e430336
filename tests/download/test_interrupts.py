"""Ctrl-C while the main thread holds a lock that other threads want."""

from __future__ import annotations

import signal

import pytest

from unshard.download.crew import Crew
from unshard.interrupts import interrupts_told


def interrupted_under_its_lock(crew: Crew) -> None:
    """As between two steps of `with`, where nobody would give the lock back."""
    crew._changed.acquire()
    signal.raise_signal(signal.SIGINT)
    crew._changed.release()


@pytest.mark.timeout(30)
def test_an_interrupt_under_a_lock_ends_the_download(site, monkeypatch):
    monkeypatch.setattr(Crew, "adapt", interrupted_under_its_lock)
    site.add(*(f"{number}.pt" for number in range(9)), size=1000)
    with pytest.raises(KeyboardInterrupt):
        site.run()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.undo()
    site.run()
    assert site.fetched() == site.contents


def interrupt(times: int, reached: list[int]) -> None:
    for number in range(times):
        signal.raise_signal(signal.SIGINT)
        reached.append(number)


@pytest.mark.parametrize(("times", "passed"), [(1, [0]), (2, [0])])
def test_the_first_is_raised_at_the_end_and_the_second_at_once(times, passed):
    told, reached = [], []
    with pytest.raises(KeyboardInterrupt) as raised, interrupts_told(told.append):
        interrupt(times, reached)
    assert reached == passed
    assert (raised.value is told[0]) == (times == 1)


def test_another_handler_is_left_alone():
    heard = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: heard.append(number))
    try:
        with interrupts_told(heard.append):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == [signal.SIGINT]
