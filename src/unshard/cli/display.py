"""Progress on stderr: lines at the foot of a terminal, rare ones in a log, events for a program."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from unshard.cli.events import EventProgress
from unshard.cli.lines import LineProgress
from unshard.cli.stderr import current
from unshard.library.deferred import deferred
from unshard.progress import Progress, Silent

on_terminal = deferred("unshard.cli.terminal", "on_terminal")
"""rich takes longer to import than many commands run."""


@contextmanager
def progress(stream: TextIO | None = None) -> Iterator[Progress]:
    """What to hand to a long piece of work; writes to `stream` (stderr)."""
    stream = stream or sys.stderr
    if stream is None:  # it was closed
        yield Silent()
    elif current().as_events:
        events = EventProgress(stream)
        try:
            yield events
        finally:
            events.close()
    elif stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown"):
        with on_terminal(stream) as lines:
            yield lines
    else:
        yield LineProgress(stream)
