"""Whether consolidated parts of OPT-175B are of a set whose md5s are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from unshard.manifest import Digest
from unshard.progress import Progress, Silent
from unshard.releases import KNOWN_PARTS, PART_NAMES, PartsDigests
from unshard.verify.against_manifest import Difference
from unshard.verify.hashing import hash_named


@dataclass(frozen=True, slots=True)
class PartsReport:
    """Where the md5s of OPT-175B's consolidated parts are known from."""

    directory: str
    known: Mapping[str, PartsDigests]
    """The set that a part belongs to, by the part's name."""
    unknown: Mapping[str, str]
    """The md5s that are in no set."""
    unreadable: tuple[Difference, ...]
    num_bytes: int
    """Bytes hashed."""

    @property
    def is_right(self) -> bool:
        """False where a part cannot be read, or is not of the sets that others belong to.

        Eight unknown md5s prove nothing: another torch, or another script, writes others.
        """
        return not self.unreadable and not (self.known and self.unknown)


def verify_parts(
    directory: str | Path,
    *,
    progress: Progress | None = None,
) -> PartsReport:
    """Hash the consolidated parts of OPT-175B in `directory` and look their md5s up."""
    progress = progress or Silent()
    paths = {name: Path(directory) / name for name in PART_NAMES}
    paths = {name: path for name, path in paths.items() if path.exists()}
    total_bytes = sum(path.stat().st_size for path in paths.values() if path.is_file())
    algorithms = dict.fromkeys(paths, "md5")
    hashed = dict(hash_named("verify parts", paths, total_bytes, algorithms, progress))
    found = {name: hashed[name] for name in paths}
    sets: dict[tuple[str, Digest | OSError], PartsDigests] = {
        (name, Digest("md5", md5)): parts
        for parts in KNOWN_PARTS
        for name, md5 in zip(PART_NAMES, parts.md5s, strict=True)
    }
    return PartsReport(
        str(directory),
        known={each[0]: sets[each] for each in found.items() if each in sets},
        unknown={
            name: digest.value
            for name, digest in found.items()
            if isinstance(digest, Digest) and (name, digest) not in sets
        },
        unreadable=tuple(
            Difference(name, f"cannot be read: {error.strerror}")
            for name, error in found.items()
            if isinstance(error, OSError)
        ),
        num_bytes=total_bytes,
    )
