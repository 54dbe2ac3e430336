"""Which source files of an unfinished reshard have arrived, and how they were then."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from unshard.execute.task_log import append_lines

NAME = ".unshard.arrived"

States = Mapping[str, list[int]]
"""Size and modification time (ns) by absolute path."""


class ArrivalLog:
    """The file `.unshard.arrived` in the destination: a line of JSON per file.

    Lines are only added, so a kill costs one of them at most, and a line costs the same
    however many there are.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME

    def read(self) -> States:
        """The files that arrived, as they were when they did."""
        try:
            lines = self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return {}
        return dict(state for line in lines if (state := _state(line)))

    def append(self, states: States) -> None:
        """Adds files, durably.

        Raises:
            NoSpaceError, DestinationError: the system refuses.
        """
        append_lines(self._path, (json.dumps([path, *state]) for path, state in states.items()))

    def remove(self) -> None:
        """Forgets everything."""
        self._path.unlink(missing_ok=True)


def _state(line: bytes) -> tuple[str, list[int]] | None:
    try:
        path, size, modified = json.loads(line)
    except ValueError:
        return None
    return path, [size, modified]
