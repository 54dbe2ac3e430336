"""Ends a process just before one of its calls that change the disk.

A moment between two such calls can be far too short for a clock to hit, and is where a record
is torn from what it tells of.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from ctypes import c_long
from threading import Lock
from typing import Any

CALLS = (
    *("open", "write", "pwrite", "pwritev", "ftruncate", "posix_fallocate", "fsync", "fdatasync"),
    *("replace", "rename", "link", "unlink", "mkdir", "rmdir"),
)


def end_at(moment: int | None, made: c_long) -> None:
    """Kills this process at the call of that number, or never; `made` counts them."""
    lock = Lock()  # of this process alone: a kill would leave a shared one locked

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any, **named: Any) -> Any:
            with lock:
                number, made.value = made.value, made.value + 1
            if number == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **named)

        return counting

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))
