"""The forecast of a link or of files that are here, and what it cost to make it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from unshard.download import PresignedTemplate, RetryPolicy
from unshard.download.measured_rate import MeasuredRate, measure_rate
from unshard.download.pieces import NoRangesError, Pieces
from unshard.download.pool import DEFAULT_MAX_CONNECTIONS, DEFAULT_STALL_TIMEOUT_S
from unshard.download.sizes import file_sizes
from unshard.errors import IntegrityError, UsageError
from unshard.index.build import open_checkpoint
from unshard.index.checkpoint import Checkpoint
from unshard.library.forecast import Forecast, LinkForecast, forecast, forecast_link
from unshard.library.machines import MACHINES, free_memory_bytes, this_machine
from unshard.library.remote_checkpoint import open_remote

RETRY = RetryPolicy(attempts=3)
"""A plan is soon made again."""


@dataclass(frozen=True, slots=True)
class Disk:
    """Where outputs would go, unless told otherwise."""

    folder: str
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Cost:
    """What the plan itself took from the server."""

    num_requests: int
    received_bytes: int


@dataclass(frozen=True, slots=True)
class Planned:
    """A forecast and its circumstances."""

    source: str
    forecast: Forecast
    disk: Disk
    measured: MeasuredRate | None
    cost: Cost | None
    """None for files that are here."""
    notes: tuple[str, ...]
    """What could not be told, and why."""


def plan_checkpoint(source: str, tp_size: int | None = None) -> Planned:
    """What comes after the download of the checkpoint that `source` (folder, glob or file)
    means. Reads headers only.

    Raises:
        UsageError, FormatError, CheckpointError: as `open_checkpoint`, and as `forecast`.
    """
    checkpoint = open_checkpoint(source)
    sizes = {path.name: path.stat().st_size for path in checkpoint.layout.files}
    found = _forecast(sizes, checkpoint, None, tp_size)
    return Planned(source, found, _disk(checkpoint.folder), None, None, ())


def plan_link(
    template: PresignedTemplate,
    names: Sequence[str],
    *,
    rate: float | None = None,
    measure: bool = False,
    tp_size: int | None = None,
    now: datetime | None = None,
) -> Planned:
    """What it takes to fetch the files `names` and all that comes after, at `rate` bytes per
    second or at a measured one. Asks for one byte of each file, and for headers of the first.

    Raises:
        UsageError: the link cannot stand for a name, or as `forecast`.
        TransferError, LinkRefusedError: the server does not give a file.
    """
    for name in names:
        template.path_of(name)
    notes: list[str] = []
    with Pieces(
        template,
        max_connections=DEFAULT_MAX_CONNECTIONS,
        stall_timeout_s=DEFAULT_STALL_TIMEOUT_S,
        retry=RETRY,
    ) as pieces:
        sizes = file_sizes(pieces, names, workers=DEFAULT_MAX_CONNECTIONS)
        checkpoint = _by_headers(pieces, str(template), names, notes)
        cost = Cost(pieces.num_requests, pieces.received_bytes)
    measured = measure_rate(template, names[:DEFAULT_MAX_CONNECTIONS]) if measure else None
    if measured:
        cost = Cost(
            cost.num_requests + measured.num_connections, cost.received_bytes + measured.num_bytes
        )
        rate = measured.bytes_per_s
    link = forecast_link(sum(sizes.values()), rate, template.expires_at(), now or datetime.now(UTC))
    found = _forecast(sizes, checkpoint, link, tp_size)
    return Planned(str(template), found, _disk(Path.cwd()), measured, cost, tuple(notes))


def _by_headers(
    pieces: Pieces, source: str, names: Sequence[str], notes: list[str]
) -> Checkpoint | None:
    """The checkpoint, or None and a note why not."""
    try:
        return open_remote(pieces, source, names)
    except (NoRangesError, IntegrityError, UsageError) as error:
        notes.append(f"no reshard and no machine is forecast: {error.message}")
        return None


def _forecast(
    sizes: dict[str, int],
    checkpoint: Checkpoint | None,
    link: LinkForecast | None,
    tp_size: int | None,
) -> Forecast:
    return forecast(
        sizes,
        checkpoint,
        link,
        tp_size=tp_size,
        num_cores=os.cpu_count() or 1,
        free_memory_bytes=free_memory_bytes(),
        machines=(*MACHINES, this_machine()),
    )


def _disk(folder: Path) -> Disk:
    return Disk(str(folder), shutil.disk_usage(folder).free)
