"""A manifest of files as they are."""

from __future__ import annotations

from pathlib import Path

from unshard.errors import UsageError
from unshard.manifest import (
    MANIFEST_PATTERNS,
    PARTIAL_SUFFIX,
    Digest,
    Manifest,
    file_name_problem,
)
from unshard.progress import Progress, Silent
from unshard.verify.hashing import hash_named


def manifest_of(
    directory: str | Path, algorithm: str, *, progress: Progress | None = None
) -> Manifest:
    """A manifest, with lengths, of the files in `directory` as they are now: all but hidden and
    half-arrived ones and what seems to be a manifest. `progress` hears of others that none may
    name.

    Raises:
        UsageError: there is none.
        OSError: one cannot be read.
    """
    directory, progress = Path(directory), progress or Silent()
    paths: dict[str, Path] = {}
    for path in sorted(directory.iterdir()):
        if not path.is_file() or any(path.match(pattern) for pattern in MANIFEST_PATTERNS):
            continue
        problem = file_name_problem(path.name)
        if problem is None:
            paths[path.name] = path
        elif not path.name.startswith(".") and path.suffix != PARTIAL_SUFFIX:
            progress.note(f"left out: {problem}")
    sizes = {name: path.stat().st_size for name, path in paths.items()}
    if not paths:
        raise UsageError(f"{directory}: has no files")
    digests: dict[str, Digest] = {}
    algorithms, total_bytes = dict.fromkeys(paths, algorithm), sum(sizes.values())
    for name, digest in hash_named("hash", paths, total_bytes, algorithms, progress):
        if isinstance(digest, OSError):
            raise digest
        digests[name] = digest
    return Manifest({name: digests[name] for name in paths}, str(directory), sizes)
