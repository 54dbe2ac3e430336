"""What the journal says of a file under way, and how far that may be believed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from unshard.download.spans import NOTHING, Spans

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Begun:
    """`NAME.partial` holds bytes of this object: `size_bytes` long, strong `etag`."""

    size_bytes: int
    etag: str | None


@dataclass(frozen=True, slots=True)
class Partway:
    """`NAME.partial` while its bytes arrive.

    Until the file `is_ranged` it is a prefix, as long as it has arrived; from then on it has
    its full length, and `arrived` tells which bytes are no holes. Both hold while the kernel
    runs that took the writes (`is_of_this_boot`). What was `synced` outlives a power cut.
    """

    begun: Begun
    is_ranged: bool = False
    arrived: Spans = NOTHING
    synced: Spans = NOTHING
    is_of_this_boot: bool = True

    def believed(self, length: int) -> Spans:
        """What there is in a `NAME.partial` that is `length` bytes long."""
        if not self.begun.etag or length > self.begun.size_bytes:
            return NOTHING
        if not self.is_of_this_boot:
            known = self.synced
        elif self.is_ranged:
            known = self.arrived
        else:
            known = NOTHING.with_span(0, length)
        known = known.below(length)
        return known if self.is_ranged else known.prefix

    def with_arrived(self, spans: Spans) -> Partway:
        return replace(self, arrived=self.arrived.union(spans))

    def with_synced(self, spans: Spans) -> Partway:
        return replace(self, arrived=self.arrived.union(spans), synced=self.synced.union(spans))

    def of_an_earlier_boot(self) -> Partway:
        return replace(self, is_of_this_boot=False, arrived=self.synced)

    def line(self, name: str) -> dict[str, object]:
        """The journal's line about `name`: all that is known, in place of lines before."""
        return {
            "begun": name,
            "size_bytes": self.begun.size_bytes,
            "etag": self.begun.etag,
            "is_ranged": self.is_ranged,
            "arrived": self.arrived.pairs,
            "synced": self.synced.pairs,
        }


def parse_partway(line: object) -> tuple[str, Partway] | None:
    """The name and what is known of it, or None when the line is about something else."""
    match line:
        case {
            "begun": str(name),
            "size_bytes": int(size),
            "etag": str() | None as etag,
            "is_ranged": bool(is_ranged),
            "arrived": arrived,
            "synced": synced,
        }:
            spans = Spans.parse(arrived), Spans.parse(synced)
            return name, Partway(Begun(size, etag), is_ranged, *spans)
    return None


def boot_id() -> str | None:
    """What the running kernel is known by until the next start; None where it does not say."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return None
