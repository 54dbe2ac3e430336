"""Ctrl-C in a callback, where Python would print it as ignored and go on."""

from __future__ import annotations

import signal
import sys
import time
import weakref

import pytest

from unshard.cli.interrupts import kept_interrupts


class Thing:
    """Can be referred to weakly."""


def test_an_interrupt_in_a_callback_comes_after_it(capfd: pytest.CaptureFixture[str]) -> None:
    things = [Thing()]
    callback = weakref.ref(things[0], lambda _: signal.raise_signal(signal.SIGINT))
    with kept_interrupts(), pytest.raises(KeyboardInterrupt):
        _wait_without(things)
    assert callback() is None
    assert capfd.readouterr().err == ""


def _wait_without(things: list[Thing]) -> None:
    things.clear()
    time.sleep(60)


def test_others_are_shown_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: seen.append(unraisable.exc_type))
    before = sys.unraisablehook
    thing = Thing()
    callback = weakref.ref(thing, lambda _: 1 // 0)
    with kept_interrupts():
        del thing
    assert callback() is None
    assert seen == [ZeroDivisionError]
    assert sys.unraisablehook is before
