"""Files that a pattern matches, in the order of one of their ranks.

metaseq's own scripts sort by all numbers in the path and take whatever is there. Here a rank
that is missing, or there twice, is an error.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from unshard.errors import CheckpointError, UsageError

Rank = Literal["shard", "model_part-"]
"""How file names introduce an FSDP rank, and a tensor-parallel one."""


def files_by_rank(pattern: str, rank: Rank) -> tuple[Path, ...]:
    """The files that `pattern` (or the path of one file) matches, by their ranks from 0; by all
    numbers in their paths where no name has a rank.

    Raises:
        UsageError: nothing matches, or files of several parts or checkpoints do.
        CheckpointError: a rank is missing; the message names its file.
    """
    paths = [Path(pattern)] if Path(pattern).is_file() else list(map(Path, glob.glob(pattern)))  # noqa: PTH207  (the pattern may be absolute)
    if not paths:
        raise UsageError(f"{pattern}: no file matches this pattern")
    found = [_rank_of(path, rank) for path in paths]
    ranks = [number for number in found if number is not None]
    if not ranks:
        return tuple(sorted(paths, key=_numbers))
    if len(ranks) < len(paths):
        odd = paths[found.index(None)]
        raise UsageError(f"{pattern}: {odd.name} has no -{rank}N in its name; others have")
    _refuse_gaps(pattern, paths, ranks, rank)
    return tuple(path for _, path in sorted(zip(ranks, paths, strict=True)))


def _rank_of(path: Path, rank: Rank) -> int | None:
    numbers = re.findall(rf"-{rank}(\d{{1,9}})", path.name)
    return int(numbers[-1]) if numbers else None


def _numbers(path: Path) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", str(path))]


def _refuse_gaps(pattern: str, paths: Sequence[Path], ranks: Sequence[int], rank: Rank) -> None:
    by_rank: dict[int, Path] = {}
    for path, number in zip(paths, ranks, strict=True):
        other = by_rank.setdefault(number, path)
        if other is not path:
            raise UsageError(
                f"{pattern}: {other} and {path} both claim {rank.rstrip('-')} {number}",
                hint="a pattern may match the files of one part, or one file of each part",
            )
    for number in range(len(paths)):
        if number not in by_rank:
            missing = re.sub(rf"-{rank}\d+", f"-{rank}{number}", paths[0].name)
            raise CheckpointError(
                f"{pattern}: {missing} is missing", hint="finish the download, or widen the pattern"
            )
