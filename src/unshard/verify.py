"""Whether the files of a folder are what a manifest says."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from unshard.errors import UsageError
from unshard.manifest import Digest, Manifest, digest_file
from unshard.progress import Progress, Silent


@dataclass(frozen=True, slots=True)
class Difference:
    """A file that is there and is not what the manifest says; `problem` says how."""

    name: str
    problem: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was found, in the manifest's order; `extra` files are in no manifest."""

    directory: str
    manifest: str
    matching: tuple[str, ...]
    different: tuple[Difference, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    num_bytes: int
    """Bytes hashed."""

    @property
    def is_right(self) -> bool:
        """Nothing differs and nothing is missing."""
        return not self.different and not self.missing


def verify(
    directory: str | Path,
    manifest: Manifest,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
) -> VerifyReport:
    """Hash every file of `manifest` in `directory`, `workers` at a time (default: all cores).

    Nothing is remembered and nothing believed: every byte is read.

    Raises:
        UsageError: `directory` is no folder.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UsageError(f"{directory}: no such folder")
    progress = progress or Silent()
    present = {name: directory / name for name in manifest if (directory / name).exists()}
    total_bytes = sum(path.stat().st_size for path in present.values())
    progress.start("verify", total_bytes)
    problems = _problems(present, manifest, workers or os.cpu_count() or 1, progress)
    return VerifyReport(
        str(directory),
        manifest.source,
        tuple(name for name in present if name not in problems),
        tuple(Difference(name, problem) for name, problem in problems.items()),
        tuple(name for name in manifest if name not in present),
        _extra(directory, manifest),
        total_bytes,
    )


def _problems(
    present: Mapping[str, Path], manifest: Manifest, workers: int, progress: Progress
) -> dict[str, str]:
    """What is wrong with each file that is wrong."""
    stop = threading.Event()

    def advance(num_bytes: int) -> None:
        if stop.is_set():
            raise CancelledError
        progress.advance(num_bytes)

    def problem(name: str) -> str | None:
        return _problem(present[name], manifest[name], advance)

    executor = ThreadPoolExecutor(workers, thread_name_prefix="verify")
    try:
        found = dict(zip(present, executor.map(problem, present), strict=True))
    finally:
        stop.set()
        executor.shutdown(cancel_futures=True)
    return {name: words for name, words in found.items() if words is not None}


def _problem(path: Path, expected: Digest, advance: Callable[[int], None]) -> str | None:
    if not path.is_file():
        return "is not a file"
    try:
        digest = digest_file(path, expected.algorithm, advance)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None if digest == expected else f"has {digest}, the manifest says {expected}"


def _extra(directory: Path, manifest: Manifest) -> tuple[str, ...]:
    """Files that the manifest does not name, itself and hidden ones aside."""
    own = Path(manifest.source).resolve()
    return tuple(
        sorted(
            path.name
            for path in directory.iterdir()
            if path.is_file()
            and path.name not in manifest
            and not path.name.startswith(".")
            and path.resolve() != own
        )
    )
