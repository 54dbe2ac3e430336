"""Ctrl-C in a callback, where Python would print it as ignored and go on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest

import unshard
from unshard.cli.interrupts import kept_interrupts

DEMO_MODEL = Path(unshard.__file__).parent / "demo_model"


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


INTERRUPTED_IMPORT = """
import os, signal, sys
from unshard.cli.main import main

class Interrupts:
    def find_spec(self, name, *_):
        if name == sys.argv[1]:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupts())
sys.exit(main(["score", sys.argv[2], "-"]))
"""


@pytest.mark.parametrize("module", ["numpy", "numpy.lib", "numpy.exceptions", "torch"])
def test_an_interrupt_while_torch_imports_numpy(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IMPORT, module, str(DEMO_MODEL)],
        input="To be.",
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert (done.returncode, done.stderr.split()) == (130, ["interrupted"]), done.stderr
