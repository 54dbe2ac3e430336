"""Which reshard a folder holds: its claim, its lock, and the fingerprint of what it wrote."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, TypeGuard

from unshard.disk import take_lock
from unshard.errors import DestinationError
from unshard.execute.fingerprint import VERSION, Fingerprint
from unshard.execute.output_file import growing, partial_path, write_error, write_whole
from unshard.execute.reclaim import unfinished
from unshard.execute.source_states import are_states, changed_error, source_states
from unshard.execute.task_log import ArrivalLog, States, TaskLog
from unshard.formats.json_object import read_json_object
from unshard.manifest import file_name_problem
from unshard.plan.copy_plan import CopyPlan, PlannedFile
from unshard.plan.plan_json import plan_digest

NAME = "unshard.json"
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".bin")
MAX_BYTES = 1 << 28


class Journal:
    """The file `unshard.json` in the destination: which reshard its files belong to.

    It is also the lock that keeps two runs out of one folder. With `reclaim` the sources may
    vanish while they are copied; with `arriving` they are recorded as they arrive. With
    `sync` off nothing that is there is believed later, with `verify` off not by a run that
    verifies.

    Raises:
        DestinationError: another run is writing to the folder, or it is not writable.
    """

    def __init__(
        self,
        plan: CopyPlan,
        directory: Path,
        *,
        sync: bool = True,
        verify: bool = True,
        reclaim: bool = False,
        arriving: bool = False,
    ) -> None:
        self._plan = plan
        self._directory = directory
        self._path = directory / NAME
        self._names = [file.name for file in plan.files]
        self._sync, self._verify = sync, verify
        self._reclaim, self._arriving = reclaim, arriving
        self.log, self._arrivals = TaskLog(directory), ArrivalLog(directory)
        self._punched = {record.path for record in plan.stored} if reclaim else set()
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._descriptor = os.open(self._path, flags, 0o666)
        except OSError as error:
            raise write_error(self._path, error) from error

    def __enter__(self) -> Self:
        try:
            take_lock(self._descriptor)
        except BlockingIOError:
            os.close(self._descriptor)
            raise DestinationError(
                f"{self._directory}: another reshard is writing to this folder",
                hint="wait for it, or choose another folder",
            ) from None
        mine = os.fstat(self._descriptor)
        if not self._path.exists() or not os.path.samestat(self._path.stat(), mine):
            os.close(self._descriptor)  # a run that was refused removed it meanwhile
            raise DestinationError(
                f"{self._path}: was removed while it was opened", hint="run the command again"
            )
        return self

    def __exit__(self, *_exception: object) -> None:
        with suppress(FileNotFoundError):
            if self._path.stat().st_size == 0:  # this run was refused: leave no trace
                self._path.unlink()
        os.close(self._descriptor)

    def begin(self, *, overwrite: bool) -> list[PlannedFile]:
        """Claims the destination for this plan; returns the files that are still to write.

        Raises:
            DestinationError: it holds another reshard, this one of other source files, or
                weights that no reshard wrote.
        """
        recorded = self._recorded()
        digest = plan_digest(self._plan)
        same = recorded.get("plan") == digest and recorded.get("files") == self._names
        if same and not overwrite and self._believes(recorded) and self._unchanged(recorded):
            todo = [file for file in self._plan.files if not self._is_done(file)]
            if todo:
                self._take_over(recorded)
            return todo
        written = set(recorded.get("files", ()))
        if not overwrite:
            self._refuse_other_reshard(recorded, same)
            self._refuse_taken(set(self._names) - (written if same else set()))
        foreign = {
            path.name for path in self._directory.iterdir() if path.suffix in WEIGHT_SUFFIXES
        }
        self._refuse_taken(foreign - written - set(self._names))
        self._refuse_sources(written)
        self._refuse_unfinished_reclaim()
        for name in written | set(self._names):
            (self._directory / name).unlink(missing_ok=True)
            partial_path(self._directory, name).unlink(missing_ok=True)
        self.log.remove()
        self._arrivals.remove()
        self._write(self._record(digest))
        return list(self._plan.files)

    def refuse_reclaimed(self) -> None:
        """For when a part of the output must be written again.

        Raises:
            DestinationError: a part of the sources was deleted.
        """
        files = self._recorded()["sources"]
        if not all(Path(path).exists() for path in files) or source_states(files) != files:
            raise DestinationError(
                f"{self._directory}: a part of this unfinished reshard is gone, and with --reclaim "
                "its source files are partly deleted",
                hint="bring back the hidden files that lay in this folder, or the source files",
            )

    def arrived_before(self, paths: Iterable[str]) -> set[str]:
        """Those of `paths` that are recorded, by an earlier run too."""
        recorded = self._recorded()["sources"]
        return {path for path in paths if str(Path(path).resolve()) in recorded}

    def arrived(self, paths: Sequence[str]) -> None:
        """Records source files that were not there before."""
        self._arrivals.append(source_states(paths))

    def finish(self, fingerprint: Fingerprint | None) -> None:
        """Records the fingerprint of what was written, where one is known.

        Raises:
            CheckpointError: a source file changed while it was read.
        """
        if not self._unchanged(self._recorded()):
            raise changed_error("run it again with --overwrite when nothing writes to the source")
        found = {} if fingerprint is None else {"fingerprint": fingerprint_json(fingerprint)}
        if found or self._arriving:
            self._write(self._recorded() | found)
        self._arrivals.remove()

    def _refuse_other_reshard(self, recorded: Mapping[str, Any], same: bool) -> None:
        if not recorded or (same and self._unchanged(recorded)):
            return
        if same:
            raise DestinationError(
                f"{self._directory}: the source files have changed since this reshard began",
                hint="--overwrite writes it all again",
            )
        raise DestinationError(
            f"{self._directory}: holds another reshard ({recorded.get('target')}), "
            "or one with other options",
            hint="repeat that command, choose an empty folder, or --overwrite",
        )

    def _refuse_unfinished_reclaim(self) -> None:
        if unfinished(self._directory) is not None:
            raise DestinationError(
                f"{self._directory}: holds an unfinished reshard with --reclaim, and what it wrote "
                "may be the only copy",
                hint="repeat that command, without --overwrite",
            )

    def _refuse_sources(self, names: set[str]) -> None:
        sources = {Path(path).resolve() for path in self._plan.source_paths()}
        for name in sorted(names):
            if (self._directory / name).resolve() in sources:
                raise DestinationError(
                    f"{self._directory / name} would be replaced, and is one of the files to read",
                    hint="choose another output folder",
                )

    def _refuse_taken(self, names: set[str]) -> None:
        for name in sorted(names):
            if (self._directory / name).exists():
                raise DestinationError(
                    f"{self._directory / name} exists, and no reshard wrote it",
                    hint="choose an empty folder",
                )

    def _believes(self, recorded: Mapping[str, Any]) -> bool:
        """Whether what an earlier run wrote is good enough for this one."""
        return bool(
            recorded.get("synced")
            and "verified" in recorded
            and (recorded["verified"] or not self._verify)
        )

    def _is_done(self, file: PlannedFile) -> bool:
        """A file has its name only once it is whole and synced."""
        path = self._directory / file.name
        return path.is_file() and path.stat().st_size == file.num_bytes

    def _unchanged(self, recorded: Mapping[str, Any]) -> bool:
        """Whether the source files are as they were; reclaimed ones may be gone or emptied."""
        for path, (size, modified) in recorded.get("sources", {}).items():
            try:
                found = Path(path).stat()
            except FileNotFoundError:
                if not self._reclaim:
                    return False
                continue
            if found.st_size != size:
                return False
            if found.st_mtime_ns != modified and path not in self._punched:
                return False
        return True

    def _take_over(self, recorded: dict[str, Any]) -> None:
        """Records in what this run differs from the one before."""
        options = {
            "synced": self._sync,
            "verified": self._verify and recorded["verified"],
            "sources": recorded["sources"] | self._unrecorded(recorded["sources"]),
        }
        if recorded != recorded | options:
            self._write(recorded | options)

    def _unrecorded(self, recorded: States) -> dict[str, list[int]]:
        """The source files that a run before, in which they arrived, has not seen."""
        if self._arriving:
            return {}
        paths = self._plan.source_paths()
        return source_states(path for path in paths if str(Path(path).resolve()) not in recorded)

    def _record(self, digest: str) -> dict[str, Any]:
        return {
            "written_by": "unshard reshard",
            "target": self._plan.target,
            "plan": digest,
            "sources": {} if self._arriving else source_states(self._plan.source_paths()),
            "files": self._names,
            "synced": self._sync,
            "verified": self._verify,
        }

    def _recorded(self) -> dict[str, Any]:
        """What the file says, and of what arrived since; nothing when it is new, was cut short
        or is somebody else's."""
        try:
            content = json.loads(os.pread(self._descriptor, MAX_BYTES, 0))
        except (ValueError, RecursionError):
            return {}
        if not _is_record(content):
            return {}
        return content | {"sources": {**content.get("sources", {}), **self._arrivals.read()}}

    def _write(self, record: Mapping[str, Any]) -> None:
        """A kill leaves the record before this one; the lock goes over to the new file."""
        raw = json.dumps(record, indent=2).encode()
        with growing(self._path) as file:
            take_lock(file)
            write_whole(file, self._path, raw)
            os.dup2(file, self._descriptor, inheritable=False)


def _is_record(content: Any) -> TypeGuard[dict[str, Any]]:
    match content:
        case {"plan": str(), "files": [*names], "sources": sources}:
            are_names = all(isinstance(name, str) and not file_name_problem(name) for name in names)
            return are_names and are_states(sources)
    return False


def fingerprint_json(fingerprint: Fingerprint) -> dict[str, Any]:
    """A fingerprint as JSON values."""
    return {
        "version": VERSION,
        "model": fingerprint.model,
        "tensors": dict(fingerprint.tensors),
    }


def recorded_fingerprint(directory: Path) -> str | None:
    """The model's fingerprint that a reshard recorded in `directory`; None where there is none,
    or one of another version.

    Raises:
        FormatError: what it recorded is malformed.
    """
    path = directory / NAME
    match read_json_object(path).get("fingerprint") if path.exists() else None:
        case {"version": version, "model": str(recorded)} if version == VERSION:
            return recorded
    return None
