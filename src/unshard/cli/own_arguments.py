"""This process's own command line, as others see it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from pathlib import Path

_ARG_START, _ARG_END = 47, 48
"""Numbers of the fields of /proc/PID/stat, from 0; proc_pid_stat(5) counts from 1."""


def hide(secrets: Iterable[str]) -> None:
    """Overwrite `secrets` with x in what `ps` shows of this process. What looked before has seen
    them; where the system does not say where the arguments are, they stay."""
    try:
        # The second field is a name in parentheses, which may hold spaces.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        start, end = int(fields[_ARG_START - 2]), int(fields[_ARG_END - 2])
    except (OSError, IndexError, ValueError):
        return
    if not 0 < start < end:
        return
    arguments = ctypes.string_at(start, end - start)
    for secret in filter(None, (each.encode() for each in secrets)):
        position = arguments.find(secret)
        while position >= 0:
            ctypes.memset(start + position, ord("x"), len(secret))
            position = arguments.find(secret, position + len(secret))
