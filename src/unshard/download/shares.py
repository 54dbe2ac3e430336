"""The missing bytes of one file, divided among the connections that bring them."""

from __future__ import annotations

from dataclasses import dataclass

from unshard.download.spans import NOTHING, Spans

SMALLEST_SHARE_BYTES = 2**20
"""Nothing is split into less: a share should last far longer than asking for it takes."""


@dataclass(slots=True, eq=False)
class Share:
    """A span that one connection brings; `position` is the offset of its next byte.

    `reach` is where the answer to its request ends: after `stop`, once it was split.
    `logged` is the offset up to which the journal knows of its bytes.
    """

    position: int
    stop: int
    reach: int
    logged: int

    @property
    def num_bytes(self) -> int:
        """How many are still to come."""
        return self.stop - self.position


class Shares:
    """What of `size_bytes` is free to take, and which shares are taken.

    Not safe from several threads: who shares it locks it.
    """

    def __init__(self, size_bytes: int = 0, arrived: Spans = NOTHING) -> None:
        self._size_bytes = size_bytes
        self._free = arrived.gaps(size_bytes)
        self._taken: list[Share] = []

    def take(self, *, may_split: bool) -> Share | None:
        """The first span that nobody brings, else the second half of the largest share."""
        if self._free.pairs:
            (start, stop), *rest = self._free.pairs
            self._free = Spans(tuple(rest))
            return self._add(start, stop)
        largest = max(self._taken, key=lambda share: share.num_bytes, default=None)
        if not may_split or largest is None or largest.num_bytes < 2 * SMALLEST_SHARE_BYTES:
            return None
        stop = largest.stop
        largest.stop = (largest.position + stop) // 2
        return self._add(largest.stop, stop)

    def advance(self, share: Share, num_bytes: int) -> None:
        """`num_bytes` of `share` have arrived; with the last of them nobody holds it."""
        share.position += num_bytes
        if share.position == share.stop:
            self._taken.remove(share)

    def give_back(self, share: Share) -> None:
        """Nobody brings `share` any more. Where the answer that ends before it goes on beyond,
        its connection brings it after all; else it may be taken again."""
        if share not in self._taken:
            return
        self._taken.remove(share)
        for other in self._taken:
            if other.stop == share.position and other.reach >= share.stop:
                other.stop = share.stop
                return
        self._free = self._free.with_span(share.position, share.stop)

    def __contains__(self, share: Share) -> bool:
        return share in self._taken

    @property
    def taken(self) -> tuple[Share, ...]:
        return tuple(self._taken)

    @property
    def largest_bytes(self) -> int:
        """Of the largest share that a further connection could have; 0: there is none."""
        free = max((stop - start for start, stop in self._free.pairs), default=0)
        half = max((share.num_bytes for share in self._taken), default=0) // 2
        return max(free, half if half >= SMALLEST_SHARE_BYTES else 0)

    @property
    def missing_bytes(self) -> int:
        return self._free.num_bytes + sum(share.num_bytes for share in self._taken)

    @property
    def arrived(self) -> Spans:
        missing = self._free
        for share in self._taken:
            missing = missing.with_span(share.position, share.stop)
        return missing.gaps(self._size_bytes)

    def _add(self, start: int, stop: int) -> Share:
        share = Share(start, stop, stop, start)
        self._taken.append(share)
        return share
