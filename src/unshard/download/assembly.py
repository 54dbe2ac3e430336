"""One file while any number of connections bring it: what is there, and who brings what."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from unshard.download.journal import Journal
from unshard.download.partial import Partial
from unshard.download.partway import Begun, Partway
from unshard.download.shares import Share, Shares
from unshard.download.spans import NOTHING

LOG_BYTES = 2**19
"""The journal hears of a ranged file's bytes so often: a kill costs a connection no more."""
SYNC_S = 30.0
"""Seconds between syncs of a file under way: a power cut costs no more. The kernel writes what
is older out by itself, so little is left to wait for."""


@dataclass(frozen=True, slots=True)
class Request:
    """The bytes `[start, stop)` of the object `begun`."""

    begun: Begun
    start: int
    stop: int

    @property
    def headers(self) -> dict[str, str]:
        is_all_the_rest = self.stop == self.begun.size_bytes
        last = "" if is_all_the_rest else self.stop - 1
        return {"Range": f"bytes={self.start}-{last}", "If-Range": self.begun.etag or ""}


class Assembly:
    """`NAME.partial` in `directory` with its lines in the journal. Safe to use from many threads.

    Until two connections bring it, it is a prefix that grows. Its bytes are those of one
    object: who holds a share of an object that was given up since writes nothing any more.

    Raises:
        DestinationError, NoSpaceError: from every method that touches the disk.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        journal: Journal,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.begun: Begun | None = None
        self._name = name
        self._journal = journal
        self._clock = clock
        self._partial = Partial(directory, name)
        self._changed = threading.Condition()
        self._shares = Shares()
        self._is_ranged = False
        self._synced_at = clock()

    @property
    def num_bytes(self) -> int:
        """How many have arrived."""
        with self._changed:
            return self._size_bytes - self._shares.missing_bytes

    @property
    def missing_bytes(self) -> int:
        with self._changed:
            return self._shares.missing_bytes

    @property
    def is_complete(self) -> bool:
        with self._changed:
            return self.begun is not None and not self._shares.missing_bytes

    def resume(self) -> None:
        """Take over what an earlier run left, as far as the journal vouches for it."""
        length, partway = self._partial.length(), self._journal.partway(self._name)
        arrived = partway.believed(length) if partway else NOTHING
        if partway is None or not arrived.num_bytes:
            if length:
                self._partial.clear()
            return
        self.begun, self._is_ranged = partway.begun, partway.is_ranged
        self._shares = Shares(self._size_bytes, arrived)
        if not self._is_ranged:
            self._partial.set_length(arrived.num_bytes)
        if not partway.is_of_this_boot:
            self._journal.begin(
                self._name, Partway(self.begun, self._is_ranged, arrived, partway.synced)
            )

    def begin(self, begun: Begun) -> Share:
        """Begin an object, of which nothing is there; all of it is the caller's share."""
        with self._changed:
            self._journal.begin(self._name, Partway(begun))
            self.begun, self._is_ranged = begun, False
            self._shares = Shares(begun.size_bytes)
            return self._take_all()

    def adopt(self, begun: Begun, path: Path, num_bytes: int) -> Share:
        """Begin an object by the file `path`, its first `num_bytes`; the rest is the caller's."""
        with self._changed:
            self._journal.begin(self._name, Partway(begun))
            self._partial.adopt(path)
            self.begun, self._is_ranged = begun, False
            self._shares = Shares(begun.size_bytes, NOTHING.with_span(0, num_bytes))
            return self._take_all()

    def give_up(self) -> None:
        """Forget all bytes and the object that they are of."""
        with self._changed:
            self._shares = Shares()
            self.begun = None
            self._partial.clear()

    def take(self) -> Share | None:
        """A share for one more connection; None when there is none to be had now."""
        with self._changed:
            return self._shares.take(may_split=True)

    def give_back(self, share: Share) -> None:
        """The caller brings no more of `share`."""
        with self._changed:
            if share in self._shares:
                self._log(share)
                self._shares.give_back(share)
                self._changed.notify_all()

    def request(self, share: Share) -> Request | None:
        """What to ask for to bring `share`; None when it is nobody's any more."""
        with self._changed:
            if self.begun is None or share not in self._shares:
                return None
            share.reach = share.stop
            return Request(self.begun, share.position, share.stop)

    def share_bytes(self) -> int:
        """What one more connection could bring; 0: nothing, now."""
        with self._changed:
            if self.begun is None or not self.begun.etag or not self.num_bytes:
                return 0
            return self._shares.largest_bytes

    def wait(self, seconds: float) -> None:
        """Until a share is given back, or all are there, or `seconds` have passed."""
        with self._changed:
            if self._shares.missing_bytes and not self._shares.largest_bytes:
                self._changed.wait(seconds)

    def put(self, share: Share, chunk: bytes | memoryview) -> int:
        """Write the next bytes of `share`; how many were: fewer than there are where it ends
        sooner by now, or is given up."""
        with self._changed:
            if share not in self._shares:
                return 0
            if not self._is_ranged and share.position != self.num_bytes:
                self._become_ranged()
            view = memoryview(chunk)[: share.num_bytes]
            num_bytes = len(view)
            while view:
                written = self._partial.write(share.position, view)
                view = view[written:]
                self._shares.advance(share, written)
                if share.position - share.logged >= LOG_BYTES or share not in self._shares:
                    self._log(share)
            if share not in self._shares:
                self._changed.notify_all()
            return num_bytes

    def sync_now_and_then(self) -> None:
        """Sync, if that was `SYNC_S` seconds ago."""
        if self._clock() - self._synced_at >= SYNC_S:
            self._synced_at = self._clock()
            self.sync()

    def sync(self) -> None:
        """Make all that has arrived survive a power cut."""
        with self._changed:
            begun, arrived = self.begun, self._shares.arrived
        self._partial.sync()
        with self._changed:
            if self.begun is begun:
                self._journal.synced(self._name, arrived)

    def close(self) -> None:
        """End it; whoever still brings a share of it writes nothing any more."""
        with self._changed:
            try:
                for share in self._shares.taken:
                    self._log(share)
            finally:
                keep = self.num_bytes > 0 or self.is_complete
                self._shares = Shares()
                self.begun = None
                self._partial.close(keep=keep)

    @property
    def _size_bytes(self) -> int:
        return self.begun.size_bytes if self.begun else 0

    def _take_all(self) -> Share:
        return self._shares.take(may_split=False) or Share(0, 0, 0, 0)

    def _become_ranged(self) -> None:
        """Before the first byte that does not continue the prefix: its length tells no more."""
        assert self.begun is not None  # noqa: S101 - it has shares
        partway = self._journal.partway(self._name)
        synced = partway.synced if partway else NOTHING
        arrived = self._shares.arrived
        self._journal.begin(self._name, Partway(self.begun, True, arrived, synced))
        for share in self._shares.taken:
            share.logged = share.position
        self._is_ranged = True
        self._partial.set_length(self.begun.size_bytes)

    def _log(self, share: Share) -> None:
        if self._is_ranged and share.logged < share.position:
            self._journal.arrived(self._name, share.logged, share.position)
            share.logged = share.position
