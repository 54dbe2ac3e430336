"""Ctrl-C while other threads are at work."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def interrupts_told(tell: Callable[[KeyboardInterrupt], None]) -> Iterator[None]:
    """The first Ctrl-C within goes to `tell`, which may be called anywhere in the main thread, and
    is raised at the end where nobody raised it before; the next is raised at once.

    Python raises it between any two steps, so also after a lock was taken and before it is known
    who gives it back (CPython issue 74174): the threads that want it then wait for ever.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    told: list[KeyboardInterrupt] = []

    def handle(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        told.append(KeyboardInterrupt())
        tell(told[0])

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if told:
        raise told[0]
