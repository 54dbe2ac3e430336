"""By what a source file is known to be the same as before."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from unshard.errors import CheckpointError


def source_states(paths: Iterable[str]) -> dict[str, list[int]]:
    """Size and modification time (ns) of every file, by its resolved path."""
    states = ((path, Path(path).stat()) for path in paths)
    return {str(Path(path).resolve()): [state.st_size, state.st_mtime_ns] for path, state in states}


def changed_error(hint: str) -> CheckpointError:
    """For when a state is another one at the end."""
    return CheckpointError(
        "a source file changed during the reshard: the output may mix old and new", hint=hint
    )
