"""What each command takes of disk, memory and time, before it is begun.

Nothing here asks a server or reads a file; `tests/library/test_forecast.py` holds the numbers
against what the commands then do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from unshard.dtypes import FLOAT32
from unshard.execute.finishing import RECLAIM_BATCH_BYTES
from unshard.execute.reclaim import NEGLIGIBLE_BYTES
from unshard.execute.source_check import SourceCheck
from unshard.execute.workers import DEFAULT_MEMORY_BYTES
from unshard.index.checkpoint import Checkpoint
from unshard.library.fitting import cache_bytes_per_token
from unshard.library.precisions import BF16, FP32, INT4, INT8
from unshard.library.room import Weights, fate, mappable_weights, weight_bytes
from unshard.plan.copy_plan import CopyPlan
from unshard.plan.metaseq_target import plan_metaseq
from unshard.plan.safetensors_target import plan_safetensors

READER_MEMORY_BYTES = 64_000_000
"""Of `download` and `verify`: the interpreter, its packages, a few blocks. Measured: 50 MB."""
MD5_BYTES_PER_S = 700_000_000
"""Of one core without the extra `fast`."""
NUM_SEQUENCES = 8
"""That `serve` runs at once, if nothing else is asked for."""


@dataclass(frozen=True, slots=True)
class Step:
    """One command in numbers; None is what nobody can tell beforehand."""

    name: str
    written_bytes: int
    peak_disk_bytes: int
    """The most that lies on the disk at any time, the source included."""
    final_disk_bytes: int
    """What lies there at the end."""
    memory_bytes: int
    elapsed_s: float | None = None
    elapsed_is_least: bool = False
    """Whether that is a bound which the disk may well miss."""
    weights: Weights | None = None
    """Where `serve` would have them; None for what has none."""


def download_step(num_bytes: int, elapsed_s: float | None) -> Step:
    """All files of a release: hashed as they come, so verifying them takes nothing more."""
    return Step("download", num_bytes, num_bytes, num_bytes, READER_MEMORY_BYTES, elapsed_s)


def verify_step(num_bytes: int, num_cores: int) -> Step:
    """Hashing all files again, if the disk gives them as fast as the cores hash."""
    elapsed_s = num_bytes / (MD5_BYTES_PER_S * num_cores)
    return Step(
        "verify --force",
        0,
        num_bytes,
        num_bytes,
        READER_MEMORY_BYTES,
        elapsed_s,
        elapsed_is_least=True,
    )


def reshard_steps(
    checkpoint: Checkpoint, sizes: Mapping[str, int], tp_size: int | None = None
) -> list[Step]:
    """To safetensors and to consolidated metaseq parts (`tp_size`; None: as many as there are),
    each beside the source and, unless that would lose an optimizer's state, in its place.
    `sizes` are those of the source's files, by name.

    Raises:
        UsageError: the model does not split into `tp_size` parts.
    """
    number = checkpoint.layout.tp_size if tp_size is None else tp_size
    planned = {
        "reshard --to safetensors": plan_safetensors(checkpoint),
        f"reshard --to metaseq --tp {number}": plan_metaseq(checkpoint, number),
    }
    overlap_bytes = reclaim_overlap_bytes(checkpoint, sizes)
    return [
        step
        for name, plan in planned.items()
        for step in _both_ways(name, plan, sum(sizes.values()), overlap_bytes)
    ]


def _both_ways(name: str, plan: CopyPlan, source_bytes: int, overlap_bytes: int) -> Iterator[Step]:
    written = plan.num_bytes
    beside = source_bytes + written
    yield Step(name, written, beside, beside, DEFAULT_MEMORY_BYTES)
    if not any(record.length > NEGLIGIBLE_BYTES for record in SourceCheck(plan).unread()):
        peak = min(beside, max(source_bytes, written) + overlap_bytes)
        yield Step(f"{name} --reclaim", written, peak, written, DEFAULT_MEMORY_BYTES)


def reclaim_overlap_bytes(checkpoint: Checkpoint, sizes: Mapping[str, int]) -> int:
    """About what lies on the disk twice while `--reclaim` deletes behind itself.

    A batch waits for its sync. A record (a file, where its checksum is not known) goes once
    all of it was read: of each file one may be read in part, and the one before it wait.
    """
    largest: dict[str, int] = {}
    for record in checkpoint.stored:
        largest[record.path] = max(largest.get(record.path, 0), record.length)
    open_bytes = sum(largest.values()) if largest else max(sizes.values())
    return RECLAIM_BATCH_BYTES + 2 * open_bytes


def serve_steps(
    checkpoint: Checkpoint, sizes: Mapping[str, int], free_memory_bytes: int
) -> list[Step]:
    """From the files as they are, on a CPU: `NUM_SEQUENCES` of full length at once, whose keys
    and values are fp32 there. Weights that exceed `free_memory_bytes` stay in the files, or are
    refused."""
    config = checkpoint.config
    source_bytes = sum(sizes.values())
    cache_bytes = (
        cache_bytes_per_token(config, FLOAT32.itemsize_bytes) * config.max_positions * NUM_SEQUENCES
    )
    steps = []
    for precision in (INT4, INT8, BF16, FP32):
        num_bytes = weight_bytes(checkpoint, precision)
        in_files = mappable_weights(checkpoint.index, precision)
        weights = fate(num_bytes, in_files, free_memory_bytes)
        needed_bytes = sum(num_bytes.values())
        if weights is Weights.MAPPED:
            needed_bytes -= sum(num_bytes[name] for name in in_files)
        name = f"serve --dtype {precision.name}"
        memory_bytes = needed_bytes + cache_bytes
        steps.append(Step(name, 0, source_bytes, source_bytes, memory_bytes, weights=weights))
    return steps
