"""What a folder already has: facts that a later run may trust, one JSON line each.

The journal lies in the folder that it describes. It is appended to, so a kill at any moment
costs at most its last line, and now and then written anew by what still holds; a lost line
costs time, never correctness. Its file is also the lock that keeps two runs out of one
folder. It holds no URL.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

from unshard.disk import sync_directory
from unshard.download.disk import disk_errors
from unshard.download.lock import open_locked
from unshard.download.partway import Partway, boot_id, parse_partway
from unshard.download.spans import NOTHING, Spans
from unshard.finished import JOURNAL_NAME, Finished, parse_finished, parse_line

COMPACT_BYTES = 4 * 2**20
"""So much may be appended before all of it is written anew."""


class Journal:
    """The journal of one folder, locked against other processes while open.

    `is_locked` is False on file systems that have no locks.

    Raises:
        DestinationError: another process downloads into the folder, or it is not writable.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / JOURNAL_NAME
        self._lock = threading.RLock()
        self._partway: dict[str, Partway] = {}
        self._finished: dict[str, Finished] = {}
        self._boot = boot_id()
        self._is_torn = False  # whether the last line is not whole: a kill, or a full disk
        with disk_errors(self._path):
            self._fd, self.is_locked = open_locked(self._path)
        try:
            with disk_errors(self._path):
                self._load(self._path.read_bytes())
        except BaseException:
            os.close(self._fd)
            raise

    def partway(self, name: str) -> Partway | None:
        return self._partway.get(name)

    def finished(self, name: str) -> Finished | None:
        return self._finished.get(name)

    def begin(self, name: str, partway: Partway) -> None:
        """Record which object `NAME.partial` comes from, before a byte of it is kept, or that
        it is ranged, before it has holes. Durable where something else was said before; where
        nothing was, no byte is believed after a power cut that takes this line."""
        with self._lock:
            is_first = name not in self._partway
            self._partway[name] = partway
            self._append([partway.line(name)], sync=not is_first)

    def arrived(self, name: str, start: int, stop: int) -> None:
        """Record, after they were written, that a ranged file has these bytes."""
        with self._lock:
            spans = NOTHING.with_span(start, stop)
            self._partway[name] = self._partway[name].with_arrived(spans)
            self._append([{"arrived": name, "spans": spans.pairs}], sync=False)

    def synced(self, name: str, spans: Spans) -> None:
        """Record that these bytes outlive a power cut."""
        with self._lock:
            self._partway[name] = self._partway[name].with_synced(spans)
            self._append([{"synced": name, "spans": spans.pairs}], sync=False)

    def finish(self, facts: Mapping[str, Finished]) -> None:
        """Record what files are, after they got their final names."""
        with self._lock:
            self._finished |= facts
            for name in facts:
                self._partway.pop(name, None)
            self._append([fact.line(name) for name, fact in facts.items()], sync=True)

    def _append(self, lines: Iterable[Mapping[str, object]], *, sync: bool) -> None:
        content = b"\n" * self._is_torn + b"".join(map(_encoded, lines))
        with disk_errors(self._path):
            self._is_torn = True
            view = memoryview(content)
            while view:
                view = view[os.write(self._fd, view) :]
            self._is_torn = False
            if sync:
                os.fsync(self._fd)
            self._growth_bytes += len(content)
            if self._growth_bytes > COMPACT_BYTES:
                self._compact()

    def _load(self, content: bytes) -> None:
        boot: object = None
        for line in content.splitlines():
            match fact := parse_line(line):
                case {"boot": str() | None as started} if started != boot:
                    boot = started
                    self._end_of_boot()
                case {"arrived": str(name), "spans": spans} if name in self._partway:
                    self._partway[name] = self._partway[name].with_arrived(Spans.parse(spans))
                case {"synced": str(name), "spans": spans} if name in self._partway:
                    self._partway[name] = self._partway[name].with_synced(Spans.parse(spans))
            if partway := parse_partway(fact):
                self._partway[partway[0]] = partway[1]
            if finished := parse_finished(fact):
                self._finished[finished[0]] = finished[1]
        self._growth_bytes = len(content)
        self._is_torn = bool(content) and not content.endswith(b"\n")
        if boot is None or boot != self._boot:
            self._end_of_boot()
            self._append([{"boot": self._boot}], sync=False)

    def _end_of_boot(self) -> None:
        """What comes next was written under another kernel than what came before."""
        self._partway = {n: p.of_an_earlier_boot() for n, p in self._partway.items()}

    def _compact(self) -> None:
        """Write anew what still holds: whoever waits for the old file sees it is not this one."""
        earlier = {n: p for n, p in self._partway.items() if not p.is_of_this_boot}
        ours = {n: p for n, p in self._partway.items() if p.is_of_this_boot}
        lines: list[Mapping[str, object]] = [f.line(n) for n, f in self._finished.items()]
        lines += [p.line(n) for n, p in earlier.items()]
        lines += [{"boot": self._boot}, *(p.line(n) for n, p in ours.items())]
        fresh = self._path.with_name(JOURNAL_NAME + ".new")
        fresh.unlink(missing_ok=True)
        fd, _ = open_locked(fresh)
        with open(fd, "wb", closefd=False) as file:
            file.writelines(map(_encoded, lines))
        os.fsync(fd)
        fresh.replace(self._path)
        sync_directory(self._path.parent)
        os.close(self._fd)
        self._fd, self._growth_bytes = fd, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        with self._lock:
            fd, self._fd = self._fd, -1  # a second Ctrl-C leaves threads, and the number is reused
            os.close(fd)


def _encoded(line: Mapping[str, object]) -> bytes:
    return json.dumps(line).encode() + b"\n"
