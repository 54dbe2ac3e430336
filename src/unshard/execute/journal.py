"""What of a reshard is done, so that the same command goes on where it was stopped."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from pathlib import Path
from typing import Any, Self

from unshard.errors import CheckpointError, DestinationError
from unshard.execute.output_file import partial_path, write_error
from unshard.plan.copy_plan import CopyPlan, PlannedFile

NAME = "unshard.json"
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".bin")


class Journal:
    """The file `unshard.json` in the destination: which reshard its files belong to.

    It is also the lock that keeps two runs out of one folder.

    Raises:
        DestinationError: another run is writing to the folder, or it is not writable.
    """

    def __init__(self, plan: CopyPlan, directory: Path) -> None:
        self._plan = plan
        self._directory = directory
        self._path = directory / NAME
        self._names = [file.name for file in plan.files]
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._descriptor = os.open(self._path, flags, 0o666)
        except OSError as error:
            raise write_error(self._path, error) from error

    def __enter__(self) -> Self:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise DestinationError(
                f"{self._directory}: another reshard is writing to this folder",
                hint="wait for it, or choose another folder",
            ) from None
        return self

    def __exit__(self, *_exception: object) -> None:
        if os.fstat(self._descriptor).st_size == 0:  # this run was refused: leave no trace
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def begin(self, *, overwrite: bool) -> list[PlannedFile]:
        """Claims the destination for this plan; returns the files that are still to write.

        Raises:
            DestinationError: it holds another reshard, this one of other source files, or
                weights that no reshard wrote.
        """
        recorded, mine = self._recorded(), self._record()
        if recorded == mine and not overwrite:
            return [file for file in self._plan.files if not self._is_done(file)]
        written = set(recorded.get("files", ())) if recorded else set()
        if not overwrite:
            self._refuse_other_reshard(recorded, mine)
            self._refuse_taken(set(self._names))
        foreign = {
            path.name for path in self._directory.iterdir() if path.suffix in WEIGHT_SUFFIXES
        }
        self._refuse_taken(foreign - written - set(self._names))
        for name in written | set(self._names):
            (self._directory / name).unlink(missing_ok=True)
            partial_path(self._directory, name).unlink(missing_ok=True)
        self._write(mine)
        return list(self._plan.files)

    def check_sources(self) -> None:
        """
        Raises:
            CheckpointError: a source file changed while it was read.
        """
        if self._recorded().get("sources") != _state(self._plan):
            raise CheckpointError(
                "a source file changed during the reshard: the output may mix old and new",
                hint="run it again with --overwrite when nothing writes to the source",
            )

    def _refuse_other_reshard(self, recorded: dict[str, Any], mine: dict[str, Any]) -> None:
        if not recorded:
            return
        if recorded.get("plan") == mine["plan"]:
            raise DestinationError(
                f"{self._directory}: the source files have changed since this reshard began",
                hint="--overwrite writes it all again",
            )
        raise DestinationError(
            f"{self._directory}: holds another reshard ({recorded.get('target')}), "
            "or one with other options",
            hint="repeat that command, choose an empty folder, or --overwrite",
        )

    def _refuse_taken(self, names: set[str]) -> None:
        for name in sorted(names):
            if (self._directory / name).exists():
                raise DestinationError(
                    f"{self._directory / name} exists, and no reshard wrote it",
                    hint="choose an empty folder",
                )

    def _is_done(self, file: PlannedFile) -> bool:
        """A file has its name only once it is whole and synced."""
        path = self._directory / file.name
        return path.is_file() and path.stat().st_size == file.num_bytes

    def _record(self) -> dict[str, Any]:
        return {
            "written_by": "unshard reshard",
            "target": self._plan.target,
            "plan": self._plan.digest(),
            "sources": _state(self._plan),
            "files": self._names,
        }

    def _recorded(self) -> dict[str, Any]:
        """What the file says; nothing when it is new or was cut short."""
        try:
            content = json.loads(os.pread(self._descriptor, 1 << 26, 0))
        except ValueError:
            return {}
        return content if isinstance(content, dict) else {}

    def _write(self, record: dict[str, Any]) -> None:
        raw = json.dumps(record, indent=2).encode()
        try:
            os.truncate(self._descriptor, 0)
            os.pwrite(self._descriptor, raw, 0)
            os.fsync(self._descriptor)
        except OSError as error:
            raise write_error(self._path, error) from error


def _state(plan: CopyPlan) -> str:
    """A digest of the size and modification time of every file that the plan reads."""
    lines = []
    for path in plan.source_paths():
        found = Path(path).stat()
        lines.append(f"{path} {found.st_size} {found.st_mtime_ns}")
    return hashlib.sha256(os.fsencode("\n".join(lines))).hexdigest()
