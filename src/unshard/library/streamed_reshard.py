"""A download and the reshard of what it brings, at the same time (docs/decisions/0011).

The plan is made of stand-ins. The download runs in the calling thread, the reshard in another,
and each file is handed over once it is whole and verified. The end of one is the end of both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from unshard.download import DownloadReport
from unshard.download.pieces import NoRangesError
from unshard.errors import CheckpointError, FormatError
from unshard.execute.arrivals import Arrivals
from unshard.execute.reclaim import Reclaiming
from unshard.finished import remembered
from unshard.index.build import open_checkpoint
from unshard.index.checkpoint import Checkpoint
from unshard.library.disk_need import DiskNeed, allocated, bytes_to_fetch, bytes_to_write
from unshard.library.download_source import Source
from unshard.library.resharded import note_of, note_resharded
from unshard.library.stand_ins import check_same_headers, forget_stand_ins
from unshard.library.streamed_progress import Behind, Checking
from unshard.manifest import Manifest
from unshard.plan.copy_plan import CopyPlan
from unshard.plan.plan_json import plan_from_json, plan_to_json
from unshard.progress import Progress

Reshard = Callable[..., list[Path]]
"""`run_plan` with all that does not depend on the download: it is given the plan, the folder,
`reclaim`, `arrivals` and `progress`."""


@dataclass(frozen=True)
class Streamed:
    """A finished download and reshard."""

    report: DownloadReport | None
    """None where nothing had to be downloaded any more."""
    paths: list[Path]
    """The output files."""


def streamed_reshard(
    source: Source,
    destination: Path,
    plan_of: Callable[[Checkpoint], CopyPlan],
    reshard: Reshard,
    *,
    asked: str,
    left: Reclaiming | None,
    reclaim: bool,
    progress: Progress,
    anew: bool = False,
) -> Streamed:
    """Downloads `source` and writes `destination` as the plan of `plan_of` says, each part of
    it as soon as the files are there that it is made of. Stopped at any moment, the same call
    goes on where it was; what is `left` of a run with `reclaim` (`unfinished`) must be given.
    `asked` tells this call from others that want another layout: by it a run with `reclaim` that
    was finished is known without asking the server, unless all is wanted `anew`.

    Where no stand-ins can be made the reshard follows the download.

    Raises:
        UsageError, CheckpointError: the files cannot be resharded so, or an arrived file is not
            the one whose headers were read.
        NoSpaceError: a disk is too small.
        UnshardError: whatever `download` and `run_plan` raise; the first of both.
        KeyboardInterrupt: as it came, after all threads ended.
    """
    looks = reclaim and left is None and not anew
    if looks and (paths := _resharded(source, destination, asked)):
        progress.note(f"{source.directory}: all of it was resharded before, and then deleted")
        forget_stand_ins(source.heads)
        return Streamed(None, paths)
    if reclaim:
        reshard = _noted(reshard, source, asked, goes_on=left is not None)
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
        streamed = _one_after_the_other(
            source, destination, plan_of, reshard, left, reclaim, progress
        )
    else:
        streaming = _Streaming(source, destination, begun, reclaim=reclaim, progress=progress)
        streamed = streaming.run(reshard)
    forget_stand_ins(source.heads)
    return streamed


def _resharded(source: Source, destination: Path, asked: str) -> list[Path] | None:
    """The output's files, if `asked` has been done with the files of `source`: those that were
    read had the digests wanted, or came from the same folder of a URL where none are, and are
    gone; what was made of them is whole. None otherwise, or where nothing is known."""
    noted = note_of(source.directory, destination)
    if (
        noted is not None
        and (noted.asked, noted.names) == (asked, sorted(source.files))
        and noted.are_gone(source.directory)
        and _were_right(source, noted.read)
        and not noted.lost()
    ):
        return [destination / name for name in noted.files]
    return None


def _were_right(source: Source, names: Sequence[str]) -> bool:
    facts, files = remembered(source.directory), source.files
    folder = source.link.current.folder
    return all(
        (known := facts.get(name)) is not None
        and (known.digest == files[name] if isinstance(files, Manifest) else known.folder == folder)
        for name in names
    )


def _noted(reshard: Reshard, source: Source, asked: str, *, goes_on: bool) -> Reshard:
    """The same, which leaves a note of what `source` becomes before it deletes any of it."""

    def noted(plan: CopyPlan, directory: Path, **settings: Any) -> list[Path]:
        def note() -> None:
            note_resharded(source.directory, source.files, directory, asked, plan, goes_on=goes_on)

        return reshard(plan, directory, before_reclaim=note, **settings)

    return noted


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
    return Streamed(report, paths)


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
        behind = Behind(self._progress)
        if not self._reclaimed:
            self._refuse_full_disks(self._source.names())
        with ThreadPoolExecutor(1, thread_name_prefix="reshard") as thread:
            running = thread.submit(
                reshard,
                self._plan,
                self._destination,
                reclaim=self._reclaimed,
                arrivals=self._arrivals,
                progress=cast(Progress, behind),
            )
            try:
                report = self._feed(running)
                behind.show()
                return Streamed(report, running.result())
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

        checking = cast(Progress, Checking(self._progress, stop_if_failed))
        return self._source.fetch(names, checking, on_file)

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
