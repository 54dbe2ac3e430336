"""Whether the files of a folder are what a manifest, or what is known of OPT, says."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from unshard.digest import hash_files
from unshard.errors import UsageError
from unshard.manifest import Digest, Manifest
from unshard.progress import Progress, Silent
from unshard.releases import (
    KNOWN_PARTS,
    OPT_VOCAB_SIZE,
    PART_NAMES,
    PartsDigests,
    tokenizer_digests,
)


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
    algorithms = {name: manifest[name].algorithm for name in present}
    found = _digests(present, algorithms, workers or os.cpu_count() or 1, progress)
    problems = {
        name: digest if isinstance(digest, str) else f"has {digest}, not {manifest[name]}"
        for name, digest in found.items()
        if digest != manifest[name]
    }
    return VerifyReport(
        str(directory),
        manifest.source,
        tuple(name for name in present if name not in problems),
        tuple(Difference(name, problem) for name, problem in problems.items()),
        tuple(name for name in manifest if name not in present),
        _extra(directory, manifest),
        total_bytes,
        manifest.shared_digests(),
    )


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
    workers: int | None = None,
    progress: Progress | None = None,
) -> PartsReport:
    """Hash the consolidated parts of OPT-175B in `directory` and look their md5s up."""
    progress = progress or Silent()
    paths = {name: Path(directory) / name for name in PART_NAMES}
    paths = {name: path for name, path in paths.items() if path.exists()}
    total_bytes = sum(path.stat().st_size for path in paths.values())
    progress.start("verify parts", total_bytes)
    algorithms = dict.fromkeys(paths, "md5")
    found = _digests(paths, algorithms, workers or os.cpu_count() or 1, progress)
    sets = {
        (name, Digest("md5", md5)): parts
        for parts in KNOWN_PARTS
        for name, md5 in zip(PART_NAMES, parts.md5s, strict=True)
    }
    digests = {name: digest for name, digest in found.items() if isinstance(digest, Digest)}
    return PartsReport(
        str(directory),
        known={each[0]: sets[each] for each in digests.items() if each in sets},
        unknown={each[0]: each[1].value for each in digests.items() if each not in sets},
        unreadable=tuple(
            Difference(name, why) for name, why in found.items() if isinstance(why, str)
        ),
        num_bytes=total_bytes,
    )


def tokenizer_manifest(directory: Path, vocab_size: int) -> Manifest | None:
    """What the tokenizer's files in `directory` must be beside a model with `vocab_size`
    tokens; None where there are none, or nothing is known of them."""
    digests = {
        name: digest
        for name, digest in tokenizer_digests(vocab_size).items()
        if (directory / name).exists()
    }
    is_opts = vocab_size == OPT_VOCAB_SIZE
    source = "OPT's tokenizer" if is_opts else f"a vocabulary of {vocab_size} tokens"
    return Manifest(digests, source) if digests else None


def _digests(
    paths: Mapping[str, Path], algorithms: Mapping[str, str], workers: int, progress: Progress
) -> dict[str, Digest | str]:
    """Each file's digest, or why it has none, in the order of `paths`."""
    found: dict[str, Digest | str] = {}
    for algorithm in dict.fromkeys(algorithms[name] for name in paths):
        names = {path: name for name, path in paths.items() if algorithms[name] == algorithm}
        for path, result in hash_files(names, algorithm, advance=progress.advance, workers=workers):
            found[names[path]] = _digest(path, algorithm, result)
    return {name: found[name] for name in paths}


def _digest(path: Path, algorithm: str, result: str | OSError) -> Digest | str:
    if isinstance(result, str):
        return Digest(algorithm, result)
    return f"cannot be read: {result.strerror}" if path.is_file() else "is not a file"


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
