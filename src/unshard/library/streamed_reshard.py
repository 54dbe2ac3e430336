"""A download and the reshard of what it brings, at the same time (docs/decisions/0011).

The plan is made of stand-ins. The download runs in the calling thread, the reshard in another,
and each file is handed over once it is whole and verified. The end of one is the end of both.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from unshard.download import DownloadReport, Link, RetryPolicy, download
from unshard.download.disk import disk_errors
from unshard.download.pieces import NoRangesError, Pieces
from unshard.download.pool import DEFAULT_MAX_CONNECTIONS, DEFAULT_STALL_TIMEOUT_S
from unshard.errors import CheckpointError, FormatError, LinkRefusedError
from unshard.execute.arrivals import Arrivals
from unshard.execute.reclaim import Reclaiming
from unshard.index.build import open_checkpoint
from unshard.index.checkpoint import Checkpoint
from unshard.index.grid import parse_name
from unshard.library.disk_need import DiskNeed, allocated, bytes_to_fetch, bytes_to_write
from unshard.library.stand_ins import (
    WEIGHTS,
    check_same_headers,
    forget_stand_ins,
    make_stand_ins,
)
from unshard.manifest import Manifest
from unshard.plan.copy_plan import CopyPlan
from unshard.plan.plan_json import plan_from_json, plan_to_json
from unshard.progress import Progress

HEADS = ".unshard-heads"
"""The folder of the stand-ins, in that of the download."""
MAX_FRESH_LINKS = 3
"""Refused one after another while headers are read: then it is not their age."""


class Reshard(Protocol):
    """`run_plan` with all that does not depend on the download."""

    def __call__(
        self,
        plan: CopyPlan,
        directory: Path,
        *,
        reclaim: Sequence[str],
        arrivals: Arrivals | None,
        progress: Progress,
    ) -> list[Path]: ...


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


@dataclass(frozen=True)
class Streamed:
    """A finished download and reshard."""

    report: DownloadReport | None
    """None where nothing had to be downloaded any more."""
    plan: CopyPlan
    paths: list[Path]
    """The output files."""


def streamed_reshard(
    source: Source,
    destination: Path,
    plan_of: Callable[[Checkpoint], CopyPlan],
    reshard: Reshard,
    *,
    left: Reclaiming | None,
    reclaim: bool,
    progress: Progress,
) -> Streamed:
    """Downloads `source` and writes `destination` as the plan of `plan_of` says, each part of
    it as soon as the files are there that it is made of. Stopped at any moment, the same call
    goes on where it was; what is `left` of a run with `reclaim` (`unfinished`) must be given.

    Where no stand-ins can be made the reshard follows the download.

    Raises:
        UsageError, CheckpointError: the files cannot be resharded so, or an arrived file is not
            the one whose headers were read.
        NoSpaceError: a disk is too small.
        UnshardError: whatever `download` and `run_plan` raise; the first of both.
        KeyboardInterrupt: as it came, after all threads ended.
    """
    begun = left
    is_drawn = left is not None or not all(Path(source.path(n)).exists() for n in source.files)
    if is_drawn:
        try:
            source.draw(progress)
            begun = begun or _planned(source, plan_of)
        except (NoRangesError, FormatError) as error:
            progress.note(f"{error.message}: the reshard has to wait for the whole download")
            is_drawn = False
    if not is_drawn or begun is None:
        return _one_after_the_other(source, destination, plan_of, reshard, left, reclaim, progress)
    streaming = _Streaming(source, destination, begun, reclaim=reclaim, progress=progress)
    streamed = streaming.run(reshard)
    forget_stand_ins(source.heads)
    return streamed


def _planned(source: Source, plan_of: Callable[[Checkpoint], CopyPlan]) -> Reclaiming:
    """The plan of the stand-ins as the plan of the files that they stand for."""
    checkpoint = open_checkpoint(source.heads)
    content = plan_to_json(plan_of(checkpoint))
    paths = [source.path(str(Path(path).relative_to(source.heads))) for path in content["paths"]]
    plan = plan_from_json(content | {"paths": paths, "source": str(source.directory)})
    return Reclaiming(plan, tuple(source.path(path.name) for path in checkpoint.layout.files))


def _one_after_the_other(
    source: Source,
    destination: Path,
    plan_of: Callable[[Checkpoint], CopyPlan],
    reshard: Reshard,
    left: Reclaiming | None,
    reclaim: bool,
    progress: Progress,
) -> Streamed:
    report = None
    if left is None:  # else a part of the files is gone, and all of them had been there
        report = source.fetch(source.names(), progress)
        checkpoint = open_checkpoint(source.directory)
        left = Reclaiming(plan_of(checkpoint), tuple(map(str, checkpoint.layout.files)))
    paths = reshard(
        left.plan,
        destination,
        reclaim=left.files if reclaim else (),
        arrivals=None,
        progress=progress,
    )
    return Streamed(report, left.plan, paths)


class _ReshardEndedError(Exception):
    """Ends a download whose reshard has failed."""


class _Streaming:
    """One download with its reshard beside it."""

    def __init__(
        self,
        source: Source,
        destination: Path,
        begun: Reclaiming,
        *,
        reclaim: bool,
        progress: Progress,
    ) -> None:
        self._source, self._destination, self._plan = source, destination, begun.plan
        self._reclaimed = begun.files if reclaim else ()
        self._progress = progress
        self._arrivals = Arrivals()

    def run(self, reshard: Reshard) -> Streamed:
        behind = _Behind(self._progress)
        if not self._reclaimed:
            self._refuse_full_disks(self._source.names())
        with ThreadPoolExecutor(1, thread_name_prefix="reshard") as thread:
            running = thread.submit(
                reshard,
                self._plan,
                self._destination,
                reclaim=self._reclaimed,
                arrivals=self._arrivals,
                progress=behind,
            )
            try:
                report = self._feed(running)
                behind.show()
                return Streamed(report, self._plan, running.result())
            except BaseException as error:
                failed = running.exception() if running.done() else None
                self._arrivals.stop()
                if failed is not None and not isinstance(error, KeyboardInterrupt):
                    raise failed from None
                raise

    def _feed(self, running: Future[list[Path]]) -> DownloadReport:
        """Downloads all that is needed, and hands over what is there already."""
        begun: list[Future[Any]] = [running, self._arrivals.needed]
        wait(begun, return_when=FIRST_COMPLETED)
        if not self._arrivals.needed.done():
            running.result()
        needed = self._arrivals.needed.result()
        names = [name for name in self._source.names() if self._is_wanted(name, needed)]
        if self._reclaimed:
            self._refuse_full_disks(names)
        self._hand_over(needed - {self._source.path(name) for name in names})

        def on_file(name: str) -> None:
            stop_if_failed()
            check_same_headers(self._source.heads / name, self._source.directory / name)
            self._arrivals.arrive(self._source.path(name))

        def stop_if_failed() -> None:
            if running.done() and running.exception() is not None:
                raise _ReshardEndedError

        return self._source.fetch(names, _Checking(self._progress, stop_if_failed), on_file)

    def _is_wanted(self, name: str, needed: frozenset[str]) -> bool:
        """What is to be deleted need not be fetched unless it is read."""
        path = self._source.path(name)
        return path not in self._reclaimed or path in needed

    def _hand_over(self, others: frozenset[str]) -> None:
        """Files that are not part of the download: a tokenizer's."""
        for path in sorted(others):
            if not Path(path).exists():
                raise CheckpointError(f"{path}: is gone", hint="run the same command again")
            self._arrivals.arrive(path)

    def _refuse_full_disks(self, names: Sequence[str]) -> None:
        source, sizes = self._source, [(n, (self._source.heads / n).stat().st_size) for n in names]
        DiskNeed(
            source.directory,
            bytes_to_fetch(source.directory, sizes),
            self._destination,
            bytes_to_write(self._destination, self._plan),
            sum(map(allocated, map(Path, self._reclaimed))) if self._reclaimed else None,
        ).refuse_full_disks(self._progress.note)


class _Checking:
    """The progress of the download, which `check` may end."""

    def __init__(self, progress: Progress, check: Callable[[], None]) -> None:
        self._progress, self._check = progress, check

    def start(self, what: str, total_bytes: int) -> None:
        self._progress.start(what, total_bytes)

    def advance(self, num_bytes: int) -> None:
        self._check()
        self._progress.advance(num_bytes)

    def note(self, line: str) -> None:
        self._progress.note(line)


class _Behind:
    """The progress of the reshard: there is one bar, and the download has it first."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._is_shown = False
        self._what, self._total_bytes, self._done_bytes = "", 0, 0

    def start(self, what: str, total_bytes: int) -> None:
        with self._lock:
            self._what, self._total_bytes = what, total_bytes
            if self._is_shown:
                self._progress.start(what, total_bytes)

    def advance(self, num_bytes: int) -> None:
        with self._lock:
            self._done_bytes += num_bytes
            if self._is_shown:
                self._progress.advance(num_bytes)

    def note(self, line: str) -> None:
        self._progress.note(line)

    def show(self) -> None:
        """The download is over."""
        with self._lock:
            self._is_shown = True
            self._progress.start(self._what, self._total_bytes)
            self._progress.advance(self._done_bytes)


def _place(name: str) -> tuple[bool, int, int]:
    found = parse_name(Path(name))
    return (found.suffix in WEIGHTS, found.fsdp_rank or 0, found.tp_rank or 0)
