"""Whether a machine can run tasks of a reshard: the same unshard, and the same files.

The files are held against what the driver sees. Of an output file the time counts too: a folder
that only has the same name on each machine may hold a file left over from another run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

from unshard import __version__
from unshard.execute.copy import Copier
from unshard.execute.tasks import CopyTask

Stamp = tuple[int, int]
"""Size in bytes and, of output files, the time of the last write in whole seconds."""


@dataclass(frozen=True)
class Expected:
    """What a machine must have: this version, and these files as seen from `folder`."""

    version: str
    folder: str
    sources: Mapping[str, Stamp]
    outputs: Mapping[str, Stamp]


def expected_of(copier: Copier, tasks: Sequence[CopyTask]) -> Expected:
    """What `tasks` need, as this machine sees it."""
    names = {task.source for task in tasks}
    sources = {piece.path for name in names for piece in copier.plan.sources[name].ranges()}
    numbers = frozenset[int]().union(*(task.files for task in tasks)) - copier.closed
    outputs = [copier.paths[number] for number in sorted(numbers)]
    return Expected(
        __version__,
        _working_folder([*sources, *outputs]),
        {path: (Path(path).stat().st_size, 0) for path in sorted(sources)},
        {path: _stamp(Path(path).stat()) for path in outputs},
    )


def _working_folder(paths: Sequence[str]) -> str:
    """Where `paths` mean on any machine what they mean here."""
    return "/" if all(Path(path).is_absolute() for path in paths) else str(Path.cwd())


def problem_here(expected: Expected) -> str | None:
    """Why this machine cannot run the tasks, in words; None when it can."""
    if expected.version != __version__:
        return f"has unshard {__version__}, not {expected.version}"
    try:
        with chdir(expected.folder):
            return _first_difference(expected)
    except OSError as error:
        return f"does not see {error.filename} ({error.strerror})"


def _first_difference(expected: Expected) -> str | None:
    for path, (size, _) in expected.sources.items():
        found = _opened(path, os.O_RDONLY)
        if found.st_size != size:
            return f"sees another {path}: {found.st_size} bytes, not {size}"
    for path, stamp in expected.outputs.items():
        if _stamp(_opened(path, os.O_WRONLY)) != stamp:
            return f"sees another {path} than the one to write to"
    return None


def _opened(path: str, flags: int) -> os.stat_result:
    """The state of a file that can be opened; network file systems refresh it on opening."""
    file = os.open(path, flags | os.O_CLOEXEC)
    try:
        return os.fstat(file)
    finally:
        os.close(file)


def _stamp(found: os.stat_result) -> Stamp:
    return found.st_size, int(found.st_mtime)
