"""The digests of files that have names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from unshard.digest import hash_files
from unshard.manifest import Digest
from unshard.progress import FileCount, Progress


def hash_named(
    what: str,
    paths: Mapping[str, Path],
    total_bytes: int,
    algorithms: Mapping[str, str],
    progress: Progress,
) -> Iterator[tuple[str, Digest | OSError]]:
    """The digest of each file by the algorithm of its name, or why it has none, as they are
    done. `what` is what `progress` hears that this is."""
    count = FileCount(progress, len(paths))
    progress.start(what, total_bytes, count.look)
    for algorithm in dict.fromkeys(algorithms[name] for name in paths):
        names = {path: name for name, path in paths.items() if algorithms[name] == algorithm}
        for path, value in hash_files(names, algorithm, advance=progress.advance):
            count.done(names[path])
            yield names[path], Digest(algorithm, value) if isinstance(value, str) else value
