"""No Ctrl-C is lost in a callback."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer, main_thread

AFTER_S = 0.01


@contextmanager
def kept_interrupts() -> Iterator[None]:
    """`KeyboardInterrupt` raised where nothing can be raised (a weak reference's callback, such as
    an import has, or a finalizer) comes again a moment later, and is not printed as ignored."""
    shown, again = sys.unraisablehook, list[Timer]()

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if unraisable.exc_type is not KeyboardInterrupt:
            shown(unraisable)
            return
        # At once, it would be ignored here too.
        again.append(Timer(AFTER_S, signal.pthread_kill, (main_thread().ident, signal.SIGINT)))
        again[-1].daemon = True
        again[-1].start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = shown
        for timer in again:
            timer.cancel()
