"""Whether the files of a folder are what a manifest says."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from unshard.errors import UsageError
from unshard.finished import Finished, remember, remembered
from unshard.manifest import Digest, Manifest
from unshard.progress import Progress, Silent
from unshard.verify.hashing import hash_named

SETTLED_NS = 2 * 10**9
"""A file that was written later than this before it was hashed is not remembered: another
write may leave the same time behind."""


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
    shared_digests: tuple[tuple[str, ...], ...] = ()
    """Names that the manifest gives one digest: it is most likely wrong about some."""
    skipped_names: tuple[str, ...] = ()
    """Names that the manifest's numbering skips: it most likely lacks them."""
    remembered: tuple[str, ...] = ()
    """Those of `matching` that were hashed before and have not changed since, by their size,
    modification time and inode."""

    @property
    def is_right(self) -> bool:
        """Nothing differs and nothing is missing."""
        return not self.different and not self.missing


def verify(
    directory: str | Path,
    manifest: Manifest,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> VerifyReport:
    """Hash the files of `manifest` in `directory`, as many at once as there are cores.

    A file that was found right before, by this or while it was downloaded, and has had the same
    size, modification time and inode since is believed unless `force`. What is found is noted
    in the folder's journal, where that can be written.

    Raises:
        UsageError: `directory` is no folder.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UsageError(f"{directory}: no such folder")
    present = dict.fromkeys(name for name in manifest if (directory / name).exists())
    check = _Check(directory, manifest, present, force=force)
    num_bytes = check.run(progress or Silent())
    problems = check.problems
    return VerifyReport(
        str(directory),
        manifest.source,
        tuple(name for name in present if name not in problems),
        tuple(Difference(name, problems[name]) for name in present if name in problems),
        tuple(name for name in manifest if name not in present),
        _extra(directory, manifest),
        num_bytes,
        manifest.shared_digests(),
        manifest.skipped_names(),
        tuple(name for name in present if name in check.believed),
    )


class _Check:
    """One pass over the files of a manifest that are there."""

    def __init__(
        self,
        directory: Path,
        manifest: Manifest,
        present: Iterable[str],
        *,
        force: bool,
    ) -> None:
        self.problems: dict[str, str] = {}
        self.believed: set[str] = set()
        self._directory = directory
        self._manifest = manifest
        self._known = remembered(directory)
        self._force = force
        self._before: dict[str, os.stat_result] = {}
        """Those that are to be hashed, as they are before that."""
        for name in present:
            self._look_at(name)

    def run(self, progress: Progress) -> int:
        """Hash what has to be; the number of bytes that were to be read."""
        total_bytes = sum(status.st_size for status in self._before.values())
        paths = {name: self._directory / name for name in self._before}
        algorithms = {name: self._manifest[name].algorithm for name in paths}
        facts: dict[str, Finished] = {}
        try:
            for name, digest in hash_named("verify", paths, total_bytes, algorithms, progress):
                facts |= self._judge(name, digest)
        finally:
            remember(self._directory, facts)
        return total_bytes

    def _look_at(self, name: str) -> None:
        try:
            status = (self._directory / name).stat()
        except OSError as error:
            self.problems[name] = f"cannot be read: {error.strerror}"
            return
        known, size = self._known.get(name), self._manifest.sizes.get(name)
        if not stat.S_ISREG(status.st_mode):
            self.problems[name] = "is not a file"
        elif size not in (None, status.st_size):
            self.problems[name] = f"has {status.st_size} bytes, not {size}"
        elif known and not self._force and self._is_known(known, name, status):
            self.believed.add(name)
        else:
            self._before[name] = status

    def _is_known(self, known: Finished, name: str, status: os.stat_result) -> bool:
        return known.digest == self._manifest[name] and known.holds_for(status)

    def _judge(self, name: str, digest: Digest | OSError) -> dict[str, Finished]:
        """Take in what `name` hashes to; what is to be remembered of it."""
        if isinstance(digest, OSError):
            self.problems[name] = f"cannot be read: {digest.strerror}"
            return {}
        fact = Finished.of(self._before[name], digest, self._folder(name, digest))
        if digest != self._manifest[name]:
            self.problems[name] = f"has {digest}, not {self._manifest[name]}"
            return {name: fact.forgotten()} if name in self._known else {}
        return {name: fact} if _is_settled(self._directory / name, fact) else {}

    def _folder(self, name: str, digest: Digest) -> str:
        known = self._known.get(name)
        return known.folder if known and known.digest == digest else ""


def _is_settled(path: Path, fact: Finished) -> bool:
    """Whether a later change to the file would show: it did not change while it was read, and
    last changed longer ago than a clock's tick."""
    try:
        return fact.holds_for(path.stat()) and time.time_ns() - fact.mtime_ns > SETTLED_NS
    except OSError:
        return False


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
