"""What became of the files of one download."""

from __future__ import annotations

from unshard.download.meter import Meter
from unshard.errors import DigestError, PersonNeededError, TransferError

MAX_FAILURES_IN_A_ROW = 8
"""So many files failing with none brought in between: it is not the files."""


class Tally:
    """Of `num_files` files, `num_left` are not known to be whole when it begins.

    The threads that fetch count what fails and what they bring, the one that called what is whole
    or wrong: without a lock, which an interrupt might leave taken.
    """

    def __init__(self, meter: Meter, num_files: int, num_left: int) -> None:
        self.fetched: set[str] = set()
        self._meter = meter
        self._num_files = num_files
        self._num_left = num_left
        self._failures: list[TransferError | DigestError] = []
        self._num_before_row = 0

    @property
    def num_open(self) -> int:
        """So many files may still become whole."""
        return self._num_left - len(self._failures)

    def brought(self) -> None:
        """The server gave a file; whether it is right is not known yet."""
        self._num_before_row = len(self._failures)

    def whole(self, name: str, *, was_fetched: bool) -> None:
        """The file is right and has its final name."""
        self._num_left -= 1
        if was_fetched:
            self.fetched.add(name)
        self._meter.file(name)

    def fail(self, error: TransferError | DigestError) -> None:
        """A file failed by itself."""
        self._failures.append(error)
        if self.num_open or len(self._failures) > 1:  # else it is the error that ends it all
            self._meter.note(error.message)

    def check(self) -> None:
        """
        Raises:
            TransferError, DigestError: so many files failed in a row that the others will.
        """
        if len(self._failures) - self._num_before_row >= MAX_FAILURES_IN_A_ROW:
            self.raise_failures()

    def with_what_is_left(self, error: PersonNeededError) -> PersonNeededError:
        """The error that ends the download; it says how many files are left, and bytes of them
        where that is known."""
        left = f"{self._num_left} of {self._num_files} files are left"
        if self._meter.left:
            left += f" ({self._meter.left})"
        return type(error)(f"{error.message}; {left}", hint=error.hint)

    def raise_failures(self) -> None:
        """
        Raises:
            TransferError, DigestError: at least one file failed; all are named in notes.
        """
        if len(self._failures) == 1:
            raise self._failures[0]
        if self._failures:
            wrong = [f for f in self._failures if isinstance(f, DigestError)]
            first = (wrong or self._failures)[0]
            raise type(first)(
                f"{len(self._failures)} of {self._num_files} files failed; {first.message}",
                hint="run the same command again: it fetches only what is missing",
            )
