"""By what a source file is known to be the same as before."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from unshard.errors import CheckpointError


def source_states(paths: Iterable[str]) -> dict[str, list[int]]:
    """Size and modification time (ns) of every file, by its resolved path."""
    states = ((path, Path(path).stat()) for path in paths)
    return {str(Path(path).resolve()): [state.st_size, state.st_mtime_ns] for path, state in states}


def are_states(value: Any) -> bool:
    """Whether `value`, out of a file that anything may have happened to, is such states."""
    return isinstance(value, dict) and all(map(_is_state, value.items()))


def _is_state(entry: tuple[Any, Any]) -> bool:
    match entry:
        case str(path), [int(), int()]:
            try:
                return "\0" not in path and bool(os.fsencode(path))
            except UnicodeEncodeError:
                return False
    return False


def changed_error(hint: str) -> CheckpointError:
    """For when a state is another one at the end."""
    return CheckpointError(
        "a source file changed during the reshard: the output may mix old and new", hint=hint
    )
