"""What became of the files of one download."""

from __future__ import annotations

from unshard.download.meter import Meter
from unshard.errors import DigestError, PersonNeededError, TransferError

MAX_FAILURES_IN_A_ROW = 8
"""So many files failing with none arriving in between: it is not the files."""


class Tally:
    """Of `num_files` files, `num_open` are not known to be whole when it begins."""

    def __init__(self, meter: Meter, num_files: int, num_open: int) -> None:
        self.num_open = num_open
        self.fetched: set[str] = set()
        self._meter = meter
        self._num_files = num_files
        self._failures: list[TransferError | DigestError] = []
        self._in_a_row = 0

    def arrived(self) -> None:
        """A file is there; whether it is right is not known yet."""
        self._in_a_row = 0

    def whole(self, name: str, *, was_fetched: bool) -> None:
        """The file is right and has its final name."""
        self.num_open -= 1
        if was_fetched:
            self.fetched.add(name)
        self._meter.file(name)

    def fail(self, error: TransferError | DigestError) -> None:
        """A file failed by itself.

        Raises:
            TransferError, DigestError: so many did that the others will.
        """
        self.num_open -= 1
        self._failures.append(error)
        self._in_a_row += 1
        if self.num_open or len(self._failures) > 1:  # else it is the error that ends it all
            self._meter.note(error.message)
        if self._in_a_row >= MAX_FAILURES_IN_A_ROW:
            self.raise_failures()

    def with_what_is_left(self, error: PersonNeededError) -> PersonNeededError:
        """The error that ends the download; it says how many files are left, and bytes of them
        where that is known."""
        num_left = self.num_open + len(self._failures)
        left = f"{num_left} of {self._num_files} files are left"
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
