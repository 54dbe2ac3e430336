"""How long work reports on itself: a narrow callback, so that no layer prints."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the advance of one long piece of work. Called from several threads."""

    def start(self, what: str, total_bytes: int) -> None:
        """A piece of work named `what` begins; `total_bytes` is its whole size."""

    def advance(self, num_bytes: int) -> None:
        """`num_bytes` more bytes are done (negative when a file starts anew)."""

    def note(self, line: str) -> None:
        """Something that a person wants to read now: a retry, a file that starts anew."""


class Silent:
    """Reports to nobody."""

    def start(self, what: str, total_bytes: int) -> None:
        pass

    def advance(self, num_bytes: int) -> None:
        pass

    def note(self, line: str) -> None:
        pass
