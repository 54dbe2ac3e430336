"""What stays of files that a reshard has deleted: which output they became.

Written before the first of them goes, so it says nothing of whether the output is whole; the
output itself shows that. Without it, a command that is repeated would find no checkpoint, or
have to fetch the headers of all files anew to tell that there is nothing left to do.
"""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from unshard.errors import CheckpointError, FormatError, UsageError
from unshard.execute.journal import NAME as OUTPUT_JOURNAL
from unshard.execute.output_file import growing, write_whole
from unshard.formats.json_object import read_json_object
from unshard.plan.copy_plan import CopyPlan
from unshard.plan.plan_json import plan_digest

STEM = ".unshard-resharded-"
"""In the folder of the files, with one note for each output."""


@dataclass(frozen=True, slots=True)
class Resharded:
    """Which command it was, what it was given, and what it writes."""

    asked: str
    destination: str
    names: list[str]
    read: list[str]
    """Those of `names` that the output is made of."""
    plan: str
    files: dict[str, int]
    """The output's files and their sizes in bytes."""

    def are_gone(self, folder: Path) -> bool:
        """Whether none is left in `folder` of the files that were read."""
        return not any((folder / name).exists() for name in self.read)

    def outputs(self) -> list[Path]:
        return [Path(self.destination) / name for name in self.files]

    def lost(self) -> list[Path]:
        """Which files of the output are not there any more as they were left."""
        whole = zip(self.outputs(), self.files.values(), strict=True)
        lost = [path for path, size in whole if not path.is_file() or path.stat().st_size != size]
        journal = Path(self.destination) / OUTPUT_JOURNAL
        try:
            recorded = read_json_object(journal).get("plan")
        except (OSError, FormatError):
            recorded = None
        return lost if recorded == self.plan else [journal, *lost]


def note_resharded(
    folder: Path,
    names: Iterable[str],
    destination: Path,
    asked: str,
    plan: CopyPlan,
    *,
    goes_on: bool,
) -> None:
    """Keep, durably, that `asked` makes `plan` of the files `names` in `folder`. A run that
    `goes_on` with an earlier one leaves the earlier note as it is.

    Raises:
        NoSpaceError, DestinationError: `folder` cannot be written.
    """
    path = _note_path(folder, destination)
    if goes_on and _read(path):
        return
    read, names = {Path(each).resolve() for each in plan.source_paths()}, sorted(names)
    noted = Resharded(
        asked,
        str(destination.resolve()),
        names,
        [name for name in names if (folder / name).resolve() in read],
        plan_digest(plan),
        {file.name: file.num_bytes for file in plan.files},
    )
    with growing(path) as file:
        write_whole(file, path, json.dumps(asdict(noted)).encode())


def note_of(folder: Path, destination: Path) -> Resharded | None:
    """What became of files in `folder` that `destination` was made of, where that is known."""
    return _read(_note_path(folder, destination))


def resharded_here(source: str, destination: Path, asked: str | None) -> list[Path] | None:
    """The output's files, if `asked` has been done with what `source` (folder, pattern or file)
    meant, which cannot be opened any more. None where another reason than that must be told.

    Raises:
        UsageError: the files became something else than what is asked for.
        CheckpointError: they became that, and it is not whole any more.
    """
    for folder in _folders(source):
        notes = [_note_path(folder, destination), *sorted(folder.glob(f"{STEM}*.json"))]
        for noted in filter(None, map(_read, notes)):
            if noted.are_gone(folder):
                _refuse_other(noted, source, destination, asked)
                return [destination / name for name in noted.files]
    return None


def _refuse_other(noted: Resharded, source: str, destination: Path, asked: str | None) -> None:
    if noted.destination != str(destination.resolve()) or noted.asked != asked:
        raise UsageError(
            f"{source}: was resharded into {noted.destination}, by a command with other arguments, "
            "and then deleted (--reclaim)",
            hint="that folder holds all of it: name it as the source",
        )
    if lost := noted.lost():
        num_files = len(noted.files) + 1
        raise CheckpointError(
            f"{destination}: {num_files - len(lost)} of {num_files} files are left as the reshard "
            f"of {source} wrote them; {lost[0].name}, for one, is gone or another, and the source "
            "was deleted (--reclaim)",
            hint="bring them back from a copy, or fetch the source again",
        )


def _folders(source: str) -> Iterator[Path]:
    """Where notes may be of what `source` meant."""
    path = Path(source).expanduser()
    yield from [path] if path.is_dir() else map(Path, sorted(glob.glob(str(path.parent))))  # noqa: PTH207  (the pattern may be absolute)


def _note_path(folder: Path, destination: Path) -> Path:
    digest = hashlib.sha256(str(destination.resolve()).encode("utf-8", "surrogateescape"))
    return folder / f"{STEM}{digest.hexdigest()[:16]}.json"


def _read(path: Path) -> Resharded | None:
    """None where there is none, or somebody else's."""
    try:
        content = read_json_object(path)
    except (OSError, FormatError):
        return None
    match content:
        case {
            "asked": str(asked),
            "destination": str(destination),
            "names": [*names],
            "read": [*read],
            "plan": str(plan),
            "files": dict(files),
        } if all(isinstance(name, str) and "\0" not in name for name in (*names, *read, *files)):
            return Resharded(asked, destination, names, read, plan, files)
    return None
