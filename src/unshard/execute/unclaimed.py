"""A folder that no reshard claims for itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

from unshard.execute.fingerprint import Fingerprint
from unshard.execute.output_file import partial_path
from unshard.execute.source_states import changed_error, source_states
from unshard.execute.task_log import NoTaskLog
from unshard.plan.copy_plan import CopyPlan, PlannedFile


class Unclaimed:
    """In the place of a `Journal` where a folder may hold the output of several commands, as
    of metaseq's own: nothing is recorded or refused, so nothing can be resumed, and what a
    failed run began is removed."""

    def __init__(self, plan: CopyPlan, directory: Path) -> None:
        self._plan = plan
        self._directory = directory
        self.log = NoTaskLog(directory)
        self._sources = source_states(plan.source_paths())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        for file in self._plan.files:
            partial_path(self._directory, file.name).unlink(missing_ok=True)

    def begin(self, *, overwrite: bool) -> list[PlannedFile]:  # noqa: ARG002  (as a Journal)
        """All files of the plan."""
        return list(self._plan.files)

    def finish(self, fingerprint: Fingerprint | None) -> None:  # noqa: ARG002  (as a Journal)
        """Records nothing.

        Raises:
            CheckpointError: a source file changed while it was read.
        """
        if source_states(self._plan.source_paths()) != self._sources:
            raise changed_error("run it again when nothing writes to the source")

    def refuse_reclaimed(self) -> None:
        """Nothing is reclaimed."""

    def arrived_before(self, paths: Iterable[str]) -> set[str]:  # noqa: ARG002  (as a Journal)
        """Nothing was recorded."""
        return set()

    def arrived(self, paths: Sequence[str]) -> None:
        """Nothing is recorded."""
