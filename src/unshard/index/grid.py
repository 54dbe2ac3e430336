"""Which ranks metaseq's files belong to, by their names.

Names are stem + `-model_part-{tp_rank}` + `-shard{fsdp_rank}` + `.pt`, each suffix where
there are such ranks. Numbers elsewhere in a name mean nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unshard.errors import CheckpointError, UsageError

NAME = re.compile(
    r"^(?P<stem>.+?)(?:-model_part-(?P<part>\d{1,9}))?(?:-shard(?P<shard>\d{1,9}))?"
    r"(?P<suffix>\.[A-Za-z]+)?$"
)


@dataclass(frozen=True, slots=True)
class CheckpointFile:
    """One file of a checkpoint and where it belongs; a rank is None where the name has none."""

    path: Path
    stem: str
    suffix: str
    tp_rank: int | None
    fsdp_rank: int | None


Grid = dict[int, dict[int, CheckpointFile]]
"""Files by tensor-parallel rank, then FSDP rank."""


def place_files(source: str, paths: Sequence[Path]) -> Grid:
    """metaseq files by their ranks, in order; both counts from 0 without gaps.

    Raises:
        UsageError: the files belong to several checkpoints.
        CheckpointError: a file of the grid is missing; the message names it.
    """
    files = [parse_name(path) for path in paths]
    stems = sorted({file.stem for file in files})
    if len(stems) > 1:
        raise UsageError(
            f"{source}: holds several checkpoints: {', '.join(stems[:5])}"
            f"{', …' if len(stems) > 5 else ''}",
            hint=f"choose one with a pattern, such as '{stems[0]}*'",
        )
    grid: Grid = {}
    for file in files:
        row = grid.setdefault(file.tp_rank or 0, {})
        other = row.setdefault(file.fsdp_rank or 0, file)
        if other is not file:
            raise UsageError(
                f"{source}: {other.path.name} and {file.path.name} claim the same rank",
                hint="choose one with a pattern",
            )
    _refuse_gaps(source, grid)
    return {rank: dict(sorted(grid[rank].items())) for rank in sorted(grid)}


def parse_name(path: Path) -> CheckpointFile:
    """The file at `path` with the ranks that its name says."""
    match = NAME.match(path.name)
    if match is None:
        return CheckpointFile(path, path.stem, path.suffix, None, None)
    part, shard = (int(rank) if rank else None for rank in match.group("part", "shard"))
    return CheckpointFile(path, match["stem"], match["suffix"] or "", part, shard)


def _refuse_gaps(source: str, grid: Grid) -> None:
    shards = range(1 + max(max(row) for row in grid.values()))
    example = next(iter(next(iter(grid.values())).values()))
    # The first gap comes soon, whatever numbers the names claim to go up to.
    first = next(
        (
            _name(example, part, shard)
            for part in range(1 + max(grid))
            for shard in shards
            if shard not in grid.get(part, {})
        ),
        None,
    )
    if first is not None:
        missing = (1 + max(grid)) * len(shards) - sum(len(row) for row in grid.values())
        more = f" and {missing - 1} more" if missing > 1 else ""
        alone = len(grid) == len(next(iter(grid.values()))) == 1
        raise CheckpointError(
            f"{source}: missing {first}{more}",
            hint="this is one file of several: name their folder"
            if alone
            else "finish the download; `unshard verify` lists what is missing",
        )


def _name(example: CheckpointFile, part: int, shard: int) -> str:
    in_part = f"-model_part-{part}" if example.tp_rank is not None else ""
    in_shard = f"-shard{shard}" if example.fsdp_rank is not None else ""
    return f"{example.stem}{in_part}{in_shard}{example.suffix}"
