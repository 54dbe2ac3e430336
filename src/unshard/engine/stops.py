"""Stop strings on text: found across token boundaries, never seen by the client."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Lets text through up to the stop string that is complete first.

    The result does not depend on how the text is cut into pieces: of two stop strings the one
    that ends first counts, of two that end together the longer.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """`stops` are not empty strings; no stops lets everything through."""
        self._stops = tuple(stops)
        self._held = ""
        self.matched = False

    def push(self, text: str, *, may_match: bool = True) -> str:
        """What may be shown now of everything pushed so far; nothing more after a match.

        A stop string that ends in a `text` that may not match is text like any other.
        """
        if not self._stops or self.matched:
            return "" if self.matched else text
        before, held = len(self._held), self._held + text
        ends = [(end, -len(s)) for s in self._stops if (end := _end(held, s, before)) > 0]
        if ends and may_match:
            self.matched = True
            end, negative_length = min(ends)
            self._held = ""
            return held[: end + negative_length]
        keep = self._longest_beginning_at_the_end(held)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def finish(self) -> str:
        """What was held back and now begins no stop string: the text ended."""
        held, self._held = self._held, ""
        return held

    def _longest_beginning_at_the_end(self, text: str) -> int:
        """Length of the longest suffix of `text` that a stop string begins with."""
        longest = min(len(text), max(map(len, self._stops)) - 1)
        for length in range(longest, 0, -1):
            suffix = text[len(text) - length :]
            if any(stop.startswith(suffix) for stop in self._stops):
                return length
        return 0


def _end(text: str, stop: str, after: int) -> int:
    """Where the first `stop` ends that ends after `after` characters of `text`; 0: nowhere."""
    start = text.find(stop, max(0, after - len(stop) + 1))
    return 0 if start < 0 else start + len(stop)
