"""How long work reports on itself: a narrow callback, so that no layer prints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Busy:
    """One connection that brings bytes of a file, or one check that hashes files."""

    slot: int
    """Its place among all that are at work. A free one is taken again, the lowest first."""
    names: tuple[str, ...]
    """The file, or those that are hashed together."""
    num_bytes: int
    earlier_bytes: int
    """What others in the same slot did before it."""
    is_check: bool


@dataclass(frozen=True, slots=True)
class Files:
    """How one piece of work stands with its files."""

    num_whole: int
    num_files: int
    received_bytes: int | None
    """Came over the network, unlike bytes that were there and are only checked; None for work
    that has nothing to do with a network."""
    busy: tuple[Busy, ...]


class Progress(Protocol):
    """Receives the advance of one long piece of work. Called from several threads."""

    def start(self, what: str, total_bytes: int, files: Callable[[], Files] | None = None) -> None:
        """A piece of work named `what` begins, or that is known better; `total_bytes` is its
        whole size. `files` may be called at any time, from any thread, by who shows more."""

    def advance(self, num_bytes: int) -> None:
        """`num_bytes` more bytes are done (negative when a file starts anew)."""

    def file(self, name: str) -> None:
        """All that was to do for the file `name` is done. Not all work tells of its files."""

    def note(self, line: str) -> None:
        """Something that a person wants to read now: a retry, a file that starts anew."""


class Silent:
    """Reports to nobody. A base for those who want to hear of some things only."""

    def start(self, what: str, total_bytes: int, files: Callable[[], Files] | None = None) -> None:
        pass

    def advance(self, num_bytes: int) -> None:
        pass

    def file(self, name: str) -> None:
        pass

    def note(self, line: str) -> None:
        pass


class FileCount:
    """Counts the files of a piece of work that are done, for one that receives nothing."""

    def __init__(self, progress: Progress, num_files: int, num_done: int = 0) -> None:
        self._progress = progress
        self._num_files = num_files
        self._num_done = num_done

    def look(self) -> Files:
        return Files(self._num_done, self._num_files, None, ())

    def done(self, name: str) -> None:
        """For one thread."""
        self._num_done += 1
        self._progress.file(name)


def shown_bytes(count: int) -> str:
    """A size for people, in decimal units: `7.6 MB`."""
    size = float(count)
    if count < 1000:
        return f"{count} bytes"
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.95:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} TB"
