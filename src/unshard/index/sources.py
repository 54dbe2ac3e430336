"""From what the user names to the checkpoint's files, with their coordinates.

Names follow metaseq: stem + `-model_part-{tp_rank}` + `-shard{fsdp_rank}` + `.pt`.
"""

from __future__ import annotations

import glob
import re
from dataclasses import dataclass
from pathlib import Path

from unshard.errors import CheckpointError, UsageError

NAME = re.compile(
    r"^(?P<stem>.+?)(?:-model_part-(?P<part>\d{1,9}))?(?:-shard(?P<shard>\d{1,9}))?\.pt$"
)


@dataclass(frozen=True, slots=True)
class CheckpointFile:
    """One file of a checkpoint and where it belongs; a rank is None where the name has none."""

    path: Path
    stem: str
    tp_rank: int | None
    fsdp_rank: int | None


def find_files(source: str) -> tuple[Path, ...]:
    """The checkpoint files that `source` (a folder, a glob or a file) means.

    Raises:
        UsageError: nothing is there, or the folder holds no checkpoint.
    """
    path = _expanded(source)
    if path.is_file():
        return (path,)
    if path.is_dir():
        return _find_in_folder(source, path)
    if glob.has_magic(source):
        found = sorted(Path(match) for match in glob.glob(source))  # noqa: PTH207  (the pattern may be absolute)
        if not found:
            raise UsageError(f"{source}: no file matches this pattern")
        return tuple(found)
    raise UsageError(f"{source}: no such file or folder")


def _expanded(source: str) -> Path:
    try:
        return Path(source).expanduser()
    except RuntimeError:
        raise UsageError(f"{source}: no such user") from None


def _find_in_folder(source: str, folder: Path) -> tuple[Path, ...]:
    layouts = [
        sorted(path for path in folder.glob(pattern) if path.is_file())
        for pattern in ("*.pt", "*.safetensors")
    ]
    found = [layout for layout in layouts if layout]
    if not found:
        raise UsageError(
            f"{source}: no checkpoint in this folder (no *.pt, no *.safetensors)",
            hint="name the folder that holds the checkpoint files themselves",
        )
    if len(found) > 1:
        raise UsageError(
            f"{source}: holds both .pt files and safetensors",
            hint=f"choose with a pattern: '{source}/*.pt' or '{source}/*.safetensors'",
        )
    return tuple(found[0])


def place_files(source: str, paths: tuple[Path, ...]) -> dict[int, dict[int, CheckpointFile]]:
    """metaseq files by tensor-parallel rank, then FSDP rank; both counts from 0 without gaps.

    Raises:
        UsageError: the files belong to several checkpoints.
        CheckpointError: a file of the grid is missing; the message names it.
    """
    files = [_parse(path) for path in paths]
    stems = sorted({file.stem for file in files})
    if len(stems) > 1:
        raise UsageError(
            f"{source}: holds several checkpoints: {', '.join(stems)}",
            hint=f"choose one with a pattern, such as '{stems[0]}*'",
        )
    grid: dict[int, dict[int, CheckpointFile]] = {}
    for file in files:
        row = grid.setdefault(file.tp_rank or 0, {})
        if (file.fsdp_rank or 0) in row:
            raise UsageError(f"{source}: {file.path.name} and another file claim the same rank")
        row[file.fsdp_rank or 0] = file
    _refuse_gaps(source, grid)
    return {rank: dict(sorted(grid[rank].items())) for rank in sorted(grid)}


def _parse(path: Path) -> CheckpointFile:
    match = NAME.match(path.name)
    if match is None:
        return CheckpointFile(path, path.stem, None, None)
    part, shard = (int(rank) if rank else None for rank in match.group("part", "shard"))
    return CheckpointFile(path, match["stem"], part, shard)


def _refuse_gaps(source: str, grid: dict[int, dict[int, CheckpointFile]]) -> None:
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
    return f"{example.stem}{in_part}{in_shard}.pt"
