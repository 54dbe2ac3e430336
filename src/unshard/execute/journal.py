"""What of a reshard is done, so that the same command goes on where it was stopped."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from unshard.errors import DestinationError
from unshard.plan.copy_plan import CopyPlan, PlannedFile

NAME = "unshard.json"


def plan_identity(plan: CopyPlan) -> str:
    """A digest of the plan and of the state (size, mtime) of every file that it reads."""
    state = [plan.digest()]
    for path in plan.source_paths():
        found = Path(path).stat()
        state.append(f"{path} {found.st_size} {found.st_mtime_ns}")
    return hashlib.sha256("\n".join(state).encode()).hexdigest()


class Journal:
    """The file `unshard.json` in the destination: which plan its files belong to."""

    def __init__(self, plan: CopyPlan, directory: Path) -> None:
        self._plan = plan
        self._directory = directory
        self._path = directory / NAME
        self._identity = plan_identity(plan)

    def begin(self, *, overwrite: bool) -> list[PlannedFile]:
        """Claims the destination for this plan; returns the files that are still to write.

        Raises:
            DestinationError: it holds files of these names from something else.
        """
        if self._recorded() == self._identity:
            return [file for file in self._plan.files if not self._is_done(file)]
        taken = [file.name for file in self._plan.files if (self._directory / file.name).exists()]
        if taken and not overwrite:
            raise DestinationError(
                f"{self._directory / taken[0]} exists and is not this reshard's",
                hint="choose an empty folder, or --overwrite",
            )
        for name in taken:
            (self._directory / name).unlink()
        self._record()
        return list(self._plan.files)

    def _is_done(self, file: PlannedFile) -> bool:
        """A file has its name only once it is whole and synced."""
        path = self._directory / file.name
        return path.is_file() and path.stat().st_size == file.num_bytes

    def _recorded(self) -> str | None:
        try:
            content = json.loads(self._path.read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return content.get("plan") if isinstance(content, dict) else None

    def _record(self) -> None:
        content = {"written_by": "unshard reshard", "target": self._plan.target}
        partial = self._path.with_suffix(".json.partial")
        with partial.open("w") as file:
            json.dump(content | {"plan": self._identity}, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._path)
