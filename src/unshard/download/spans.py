"""Which bytes of a file there are: sets of offsets, written as few spans."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spans:
    """A set of byte offsets: half-open spans, ascending, of which no two touch."""

    pairs: tuple[tuple[int, int], ...] = ()

    @classmethod
    def parse(cls, value: object) -> Spans:
        """What a journal's line lists; anything that is no list of spans is no offset."""
        spans = cls()
        for pair in value if isinstance(value, list) else ():
            match pair:
                case [int(start), int(stop)] if 0 <= start < stop:
                    spans = spans.with_span(start, stop)
        return spans

    def with_span(self, start: int, stop: int) -> Spans:
        """This set and the offsets from `start` up to `stop`."""
        if start >= stop:
            return self
        before = [pair for pair in self.pairs if pair[1] < start]
        after = [pair for pair in self.pairs if pair[0] > stop]
        joined = self.pairs[len(before) : len(self.pairs) - len(after)]
        if joined:
            start, stop = min(start, joined[0][0]), max(stop, joined[-1][1])
        return Spans((*before, (start, stop), *after))

    def union(self, other: Spans) -> Spans:
        result = self
        for start, stop in other.pairs:
            result = result.with_span(start, stop)
        return result

    def below(self, limit: int) -> Spans:
        """The offsets of this set that are less than `limit`."""
        return Spans(tuple((a, min(b, limit)) for a, b in self.pairs if a < limit))

    def gaps(self, size_bytes: int) -> Spans:
        """The offsets that a file of `size_bytes` still misses."""
        stops = (0, *(stop for _, stop in self.pairs))
        starts = (*(start for start, _ in self.pairs), size_bytes)
        return Spans(tuple((a, b) for a, b in zip(stops, starts, strict=True) if a < b))

    @property
    def num_bytes(self) -> int:
        return sum(stop - start for start, stop in self.pairs)

    @property
    def prefix(self) -> Spans:
        """The span that begins at offset 0, if there is one."""
        return Spans(self.pairs[:1]) if self.pairs and self.pairs[0][0] == 0 else NOTHING


NOTHING = Spans()
