"""Starting the ranks of `--tp N`, or taking a place among those that torchrun started."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from unshard.cli.compute_options import ComputeOptions
from unshard.cli.display import progress
from unshard.cli.stderr import Stderr, current
from unshard.engine.engine import Engine
from unshard.engine.load import load_engine
from unshard.engine.team import TeamModel, be_led, check_team, join, lead
from unshard.errors import UnshardError, UsageError, WorkerLostError
from unshard.index.checkpoint import Checkpoint
from unshard.library.precisions import PRECISIONS
from unshard.parallel import launch
from unshard.parallel.links import Followers, Leader
from unshard.parallel.place import Place, end_with_parent, launched_place
from unshard.parallel.rendezvous import Store, file_store, local_environment
from unshard.parallel.watch import END_SECONDS, Watch, broken_group
from unshard.parallel.workers import Workers

LOSS_SECONDS = 3.0
"""How long a failed step waits to hear which rank was lost."""


class ModelOptions(NamedTuple):
    """What the command line says of the model, the same for all ranks."""

    source: str
    compute: ComputeOptions
    max_batch: int
    cache_sequences: int | None = None

    def of(self, checkpoint: Checkpoint) -> TeamModel:
        return TeamModel(
            checkpoint,
            PRECISIONS[self.compute.dtype],
            self.compute.device,
            self.max_batch,
            self.cache_sequences,
            self.compute.cpu_offload_gb,
            self.compute.enforce_eager,
        )


def followed(checkpoint: Checkpoint, options: ModelOptions) -> bool:
    """Whether torchrun started this process as a rank other than 0, whose work is then done.

    Raises:
        UsageError, FormatError: as from `load_engine`.
    """
    place = _place(options.compute.tp)
    if place.rank == 0:
        return False
    end_with_parent(os.getppid())
    model, stderr = options.of(checkpoint), current()
    check_team(model, place)
    leader = Leader(place, lambda lost: _abandon(stderr, lost))
    try:
        store = launch.follow(leader, place)
        ranks = join(model, place, store, lambda: leader.lost)
        if place.is_beside_rank_0:
            _leave_signals_to_rank_0()
        be_led(model, ranks)
    except UnshardError as error:
        leader.tell(error)
        raise
    except RuntimeError as error:  # gloo's: a consequence of what rank 0 will say, most likely
        lost = leader.wait_for_loss(LOSS_SECONDS) or broken_group(place.size, error)
        leader.tell(lost)
        raise lost from error
    leader.close()
    return True


def _leave_signals_to_rank_0() -> None:
    """A terminal and torchrun send them to every process of a machine, and rank 0 has requests to
    finish with the others before it dismisses them; its end is theirs, too."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)


@contextmanager
def engine_of(checkpoint: Checkpoint, options: ModelOptions) -> Iterator[tuple[Engine, Watch]]:
    """The engine, and the other ranks, none where it is alone.

    Raises:
        UsageError: the model cannot be split over so many ranks.
        WorkerLostError: a rank ended before its time.
        UsageError, FormatError, CheckpointError: as from `load_engine`.
    """
    place, model, stderr = _place(options.compute.tp), options.of(checkpoint), current()
    others = _others(place, lambda lost: _abandon(stderr, lost))
    if place.size == 1:
        yield _lone_engine(model), others
        return
    check_team(model, place)
    try:
        with _meeting(others, options, place) as store:
            ranks = join(model, place, store, lambda: others.lost)
            with progress() as reporter:
                engine, runner = lead(
                    model, ranks, lambda: others.wait_for_loss(LOSS_SECONDS), reporter
                )
        try:
            yield engine, others
        finally:
            others.dismiss()
            # One that is stopped, or hangs, does not hear that it is to end.
            impatience = threading.Timer(END_SECONDS, others.kill)
            impatience.start()
            if runner.close():
                others.close()
                ranks.leave()
            impatience.cancel()
    finally:
        others.kill()


def _lone_engine(model: TeamModel) -> Engine:
    with progress() as reporter:
        return load_engine(
            model.checkpoint,
            precision=model.precision,
            device=model.device,
            max_batch=model.max_batch,
            cache_sequences=model.cache_sequences,
            cpu_offload_gb=model.cpu_offload_gb,
            enforce_eager=model.enforce_eager,
            progress=reporter,
        )


def _place(tp: int | None) -> Place:
    launched = launched_place(os.environ)
    if launched is None:
        size = tp or 1
        return Place(rank=0, size=size, local_rank=0, local_size=size)
    if tp not in (None, launched.size):
        raise UsageError(
            f"--tp {tp}, but {launched.size} ranks were started",
            hint="leave --tp away: it is as many as torchrun starts",
        )
    return launched


def _others(place: Place, abandon: Callable[[WorkerLostError], None]) -> Workers | Followers:
    if launched_place(os.environ) is None:
        return Workers(abandon)
    return Followers(place, abandon)


@contextmanager
def _meeting(others: Workers | Followers, options: ModelOptions, place: Place) -> Iterator[Store]:
    """Where the ranks find each other; those that torchrun did not start are started."""
    if isinstance(others, Followers):
        end_with_parent(os.getppid())
        yield launch.lead(others, place)
        return
    with tempfile.TemporaryDirectory(prefix="unshard-") as folder:
        meeting = Path(folder, "ranks")
        _start(others, options, place, meeting)
        yield file_store(meeting, place.size)


def _start(workers: Workers, options: ModelOptions, place: Place, meeting: Path) -> None:
    """Starts all ranks but 0."""
    os.environ.update(local_environment(place.num_threads))
    for rank in range(1, place.size):
        told = {
            "place": [rank, place.size, rank, place.size],
            "parent": os.getpid(),
            "meeting": str(meeting),
            "options": options,
        }
        command = [sys.executable, "-m", "unshard.cli.rank", json.dumps(told)]
        workers.start(rank, place.size, command, os.environ)


def _abandon(stderr: Stderr, lost: WorkerLostError) -> None:
    """The last word where the main thread waits for ever for a rank that is gone."""
    exit_code = stderr.error(lost.message, lost.hint, lost.exit_code)
    sys.stderr.flush()
    os._exit(exit_code)
