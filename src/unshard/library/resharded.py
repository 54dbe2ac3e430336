"""What stays of a download whose files a reshard has deleted: which output they became.

Written before the first of them goes, so it says nothing of whether the output is whole; the
output itself shows that. Without it, only the headers of all files, fetched anew, could tell
that there is nothing left to do.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from unshard.disk import sync_directory
from unshard.download.disk import disk_errors
from unshard.errors import FormatError
from unshard.execute.journal import NAME as OUTPUT_JOURNAL
from unshard.finished import remembered
from unshard.formats.json_object import read_json_object
from unshard.library.download_source import Source
from unshard.manifest import Manifest
from unshard.plan.copy_plan import CopyPlan
from unshard.plan.plan_json import plan_digest

NAME = ".unshard-resharded.json"
"""In the folder of the download."""


@dataclass(frozen=True, slots=True)
class _Resharded:
    """Which command it was, what it had to fetch, and what it writes."""

    asked: str
    destination: str
    names: list[str]
    read: list[str]
    """Those of `names` that the output is made of."""
    plan: str
    files: dict[str, int]
    """The output's files and their sizes in bytes."""


def note_resharded(source: Source, destination: Path, asked: str, plan: CopyPlan) -> None:
    """Keep, durably, that `asked` makes `plan` of the files of `source`.

    Raises:
        NoSpaceError, DestinationError: the folder of `source` cannot be written.
    """
    paths = set(plan.source_paths())
    noted = _Resharded(
        asked,
        str(destination.resolve()),
        sorted(source.files),
        sorted(name for name in source.files if source.path(name) in paths),
        plan_digest(plan),
        {file.name: file.num_bytes for file in plan.files},
    )
    path = source.directory / NAME
    fresh = path.with_name(f"{NAME}.new")
    with disk_errors(path):
        fresh.unlink(missing_ok=True)
        fresh.write_text(json.dumps(asdict(noted)))
        fresh.replace(path)
        sync_directory(source.directory)


def resharded(source: Source, destination: Path, asked: str) -> list[Path] | None:
    """The output's files, if `asked` has been done with the files of `source`: those that were
    read had the digests wanted, or came from the same folder of a URL where none are, and are
    gone; what was made of them is whole. None otherwise, or where nothing is known."""
    try:
        noted = _Resharded(**read_json_object(source.directory / NAME))
        recorded = read_json_object(destination / OUTPUT_JOURNAL)
        is_same = (
            (noted.asked, noted.destination) == (asked, str(destination.resolve()))
            and noted.names == sorted(source.files)
            and noted.plan == recorded.get("plan")
            and _were_right(source, noted.read)
        )
        outputs = {destination / name: size for name, size in noted.files.items()}
        if is_same and all(path.stat().st_size == size for path, size in outputs.items()):
            return list(outputs)
    except (OSError, FormatError, TypeError, AttributeError):
        pass  # there is none, or somebody else's: the headers will tell
    return None


def _were_right(source: Source, names: Sequence[str]) -> bool:
    facts, files = remembered(source.directory), source.files
    folder = source.link.current.folder
    return all(
        (known := facts.get(name)) is not None
        and not (source.directory / name).exists()
        and (known.digest == files[name] if isinstance(files, Manifest) else known.folder == folder)
        for name in names
    )
