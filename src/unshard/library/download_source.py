"""What a streamed reshard downloads: its headers first, and then its files in their order."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unshard.download import DownloadReport, Link, RetryPolicy, download
from unshard.download.disk import disk_errors
from unshard.download.pieces import Pieces
from unshard.download.pool import DEFAULT_MAX_CONNECTIONS, DEFAULT_STALL_TIMEOUT_S
from unshard.errors import LinkRefusedError
from unshard.index.grid import parse_name
from unshard.library.stand_ins import WEIGHTS, make_stand_ins
from unshard.manifest import Manifest
from unshard.progress import Progress

HEADS = ".unshard-heads"
"""The folder of the stand-ins, in that of the download."""
MAX_FRESH_LINKS = 3
"""Refused one after another while headers are read: then it is not their age."""


@dataclass(frozen=True)
class Source:
    """What is to be downloaded, and how."""

    link: Link
    files: Manifest | Sequence[str]
    directory: Path
    max_connections: int = DEFAULT_MAX_CONNECTIONS
    max_rate: int | None = None
    stall_timeout_s: float = DEFAULT_STALL_TIMEOUT_S
    retry: RetryPolicy = field(default_factory=RetryPolicy)

    @property
    def heads(self) -> Path:
        """Where the stand-ins are."""
        return self.directory / HEADS

    def path(self, name: str) -> str:
        """The file `name`, as plans spell it."""
        return str(self.directory / name)

    def names(self) -> list[str]:
        """All files, in the order in which tasks can use them: every FSDP shard holds the same
        fraction of each part, and many tensors need all parts."""
        return sorted(self.files, key=_place)

    def fetch(
        self, names: Sequence[str], progress: Progress, on_file: Callable[[str], None] | None = None
    ) -> DownloadReport:
        """Downloads `names` in their order; raises what `download` does."""
        files = self.files.only(names) if isinstance(self.files, Manifest) else names
        return download(
            self.link,
            files,
            self.directory,
            max_connections=self.max_connections,
            max_rate=self.max_rate,
            stall_timeout_s=self.stall_timeout_s,
            retry=self.retry,
            progress=progress,
            on_file=on_file,
        )

    def draw(self, progress: Progress) -> None:
        """Makes the stand-ins that are not there yet.

        Raises:
            NoRangesError, FormatError: there can be none.
            LinkRefusedError, TransferError, UsageError: as from downloading.
        """
        names = self.names()
        self.link.expect(names, same_folder=not isinstance(self.files, Manifest))
        with disk_errors(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
        for fresh_links in range(MAX_FRESH_LINKS + 1):
            template, generation = self.link.held
            try:
                with Pieces(
                    template,
                    max_connections=self.max_connections,
                    stall_timeout_s=self.stall_timeout_s,
                    retry=self.retry,
                ) as pieces:
                    make_stand_ins(
                        pieces, names, self.heads, self.directory, workers=self.max_connections
                    )
                return
            except LinkRefusedError as error:
                if fresh_links == MAX_FRESH_LINKS or not self.link.renew(
                    generation, error.message, sleep=time.sleep, note=progress.note
                ):
                    raise


def _place(name: str) -> tuple[bool, int, int]:
    found = parse_name(Path(name))
    return (found.suffix in WEIGHTS, found.fsdp_rank or 0, found.tp_rank or 0)
