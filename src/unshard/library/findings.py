"""What was verified about a folder, and the error that it amounts to."""

from __future__ import annotations

from dataclasses import dataclass

from unshard.errors import FormatError, IntegrityError
from unshard.verify import Difference, PartsReport, VerifyReport


@dataclass(frozen=True, slots=True)
class ArchivesReport:
    """Whether every record of torch's archives gives the CRC-32 that was stored with it.

    That finds what happened to a file since it was written, and not that it is another one.
    """

    directory: str
    sound: tuple[str, ...]
    damaged: tuple[Difference, ...]
    num_bytes: int
    """Bytes summed."""


@dataclass(frozen=True, slots=True)
class FingerprintReport:
    """The fingerprint that `unshard.json` records against that of the weights beside it."""

    directory: str
    recorded: str
    found: str | None
    """None where the weights cannot be read: `problem` says why."""
    problem: str | None = None

    @property
    def is_right(self) -> bool:
        return self.found == self.recorded


@dataclass(frozen=True, slots=True)
class Findings:
    """What was verified; None where there was nothing to compare with."""

    directory: str
    files: VerifyReport | None = None
    """Against the manifest."""
    tokenizer: VerifyReport | None = None
    """Against what belongs to a vocabulary of this size."""
    parts: PartsReport | None = None
    """OPT-175B's consolidated parts, where no manifest says what they should be."""
    damage: FormatError | None = None
    """Why the checkpoint does not open, where a file is the reason."""
    archives: ArchivesReport | None = None
    """torch's files, where no manifest says what they should be."""
    fingerprint: FingerprintReport | None = None
    """Against what a reshard recorded."""
    unproved: tuple[str, ...] = ()
    """Weights that nothing is known of, and that say nothing of themselves."""

    def problem(self) -> IntegrityError | None:
        """The first thing that is not what it should be, or None when all is right."""
        if self.files and not self.files.is_right:
            return _wrong_files(self.files)
        if self.parts and self.parts.unknown and self.damage:
            return self.damage
        if self.parts and not self.parts.is_right:
            return _wrong_parts(self.parts)
        if self.archives and self.archives.damaged:
            return _damaged_archives(self.archives)
        if self.fingerprint and not self.fingerprint.is_right:
            return _other_weights(self.fingerprint)
        if self.tokenizer and not self.tokenizer.is_right:
            return _wrong_tokenizer(self.tokenizer)
        return None


def _wrong_files(report: VerifyReport) -> IntegrityError:
    total = len(report.matching) + len(report.different) + len(report.missing)
    return IntegrityError(
        f"{report.directory}: of {total} files, {len(report.different)} different and "
        f"{len(report.missing)} missing",
        hint="`unshard verify` with --repair URL, or `unshard download` with the same manifest, "
        "fetches only these",
    )


def _wrong_parts(report: PartsReport) -> IntegrityError:
    if report.unreadable:
        first = report.unreadable[0]
        return IntegrityError(f"{report.directory}: {first.name} {first.problem}")
    return IntegrityError(
        f"{report.directory}: {', '.join(report.unknown)}: in no known set, though the other "
        f"{len(report.known)} parts are",
        hint="make these parts again from the raw files, which have md5s of their own",
    )


def _wrong_tokenizer(report: VerifyReport) -> IntegrityError:
    names = ", ".join(difference.name for difference in report.different)
    return IntegrityError(
        f"{report.directory}: {names}: not of {report.manifest}",
        hint="metaseq has the tokenizer under projects/OPT/assets; `unshard reshard` writes "
        "dict.txt",
    )


def _damaged_archives(report: ArchivesReport) -> IntegrityError:
    total = len(report.sound) + len(report.damaged)
    first = report.damaged[0]
    return IntegrityError(
        f"{report.directory}: {len(report.damaged)} of {total} torch files are damaged: "
        f"{first.name} {first.problem}",
        hint="fetch or write these files again",
    )


def _other_weights(report: FingerprintReport) -> IntegrityError:
    return IntegrityError(
        f"{report.directory}: "
        + (report.problem or "the weights are not those whose fingerprint unshard.json records"),
        hint="`unshard diff` with the source says where; `unshard reshard` writes them again",
    )
