"""Everything that can be verified about a folder: its manifest, and what is known of OPT."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from unshard.architectures.opt import OPTConfig
from unshard.errors import FormatError, IntegrityError, UnshardError, UsageError
from unshard.index.build import open_checkpoint
from unshard.index.checkpoint import Checkpoint
from unshard.library.self_checks import (
    ArchivesReport,
    FingerprintReport,
    check_archives,
    check_fingerprint,
)
from unshard.manifest import Manifest
from unshard.progress import Progress
from unshard.releases import OPT_175B_SIZE, OPT_VOCAB_SIZE, PART_NAMES
from unshard.verify import PartsReport, VerifyReport, tokenizer_manifest, verify, verify_parts

WEIGHT_PATTERNS = ("*.pt", "*.safetensors")


@dataclass(frozen=True, slots=True)
class Findings:
    """What was verified; None where there was nothing to compare with."""

    directory: str
    files: VerifyReport | None
    """Against the manifest."""
    tokenizer: VerifyReport | None
    """Against what belongs to a vocabulary of this size."""
    parts: PartsReport | None
    """OPT-175B's consolidated parts, where no manifest says what they should be."""
    damage: FormatError | None
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


def verify_folder(
    directory: Path,
    manifest: Manifest | None,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> Findings:
    """Hash what `manifest` names, and OPT's tokenizer files wherever they lie.

    Without a manifest, everything that the folder proves by itself: md5s of OPT-175B's
    consolidated parts that are known, the CRC-32s in torch's files, the fingerprint that a
    reshard recorded.

    Raises:
        UsageError: `directory` is no folder, or holds nothing that can be verified.
    """
    checkpoint = _open(directory)
    config = checkpoint.config if isinstance(checkpoint, Checkpoint) else None
    is_175b = config is None or (config.num_layers, config.hidden_size) == OPT_175B_SIZE
    all_parts = all((directory / name).exists() for name in PART_NAMES)
    has_parts = manifest is None and is_175b and all_parts
    tokenizer = _tokenizer_manifest(directory, config, has_parts)
    findings = Findings(
        str(directory),
        verify(directory, manifest, force=force, progress=progress) if manifest else None,
        verify(directory, tokenizer, force=force) if tokenizer else None,
        verify_parts(directory, progress=progress) if has_parts else None,
        checkpoint if isinstance(checkpoint, FormatError) else None,
    )
    return findings if manifest else _prove(findings, checkpoint, progress)


def _prove(
    findings: Findings, checkpoint: Checkpoint | UnshardError, progress: Progress | None
) -> Findings:
    """With what the weights say of themselves."""
    directory = Path(findings.directory)
    known = findings.parts.known if findings.parts else {}
    archives = [path for path in sorted(directory.glob("*.pt")) if path.name not in known]
    index = checkpoint.index if isinstance(checkpoint, Checkpoint) else checkpoint
    recorded = check_fingerprint(directory, index, progress=progress)
    others = sorted(path.name for path in directory.glob("*.safetensors"))
    unproved = () if recorded else tuple(others)
    if not (archives or recorded or findings.parts or findings.tokenizer):
        raise UsageError(
            f"{directory}: has no manifest, no file whose md5 is known, no torch file and no "
            "recorded fingerprint: nothing can be verified",
            hint="say which manifest with --manifest FILE",
        )
    return replace(
        findings,
        archives=check_archives(archives, progress=progress) if archives else None,
        fingerprint=recorded,
        unproved=unproved,
    )


def _open(directory: Path) -> Checkpoint | UnshardError:
    """The checkpoint, or why it does not open. A folder without a whole checkpoint can be
    verified nevertheless; what cannot be read is named then."""
    try:
        return open_checkpoint(directory)
    except UnshardError as error:
        return error
    except OSError as error:
        return UnshardError(f"{directory}: {error.strerror}")


def _tokenizer_manifest(
    directory: Path, config: OPTConfig | None, is_175b: bool
) -> Manifest | None:
    """None where the weights do not open, and so do not say how many tokens they know."""
    if config is not None:
        return tokenizer_manifest(directory, config.vocab_size)
    has_weights = any(path for pattern in WEIGHT_PATTERNS for path in directory.glob(pattern))
    if has_weights and not is_175b:
        return None
    return tokenizer_manifest(directory, OPT_VOCAB_SIZE)


def _wrong_files(report: VerifyReport) -> IntegrityError:
    total = len(report.matching) + len(report.different) + len(report.missing)
    return IntegrityError(
        f"{report.directory}: {len(report.different)} files differ and {len(report.missing)} "
        f"are missing, of {total}",
        hint="`unshard verify --repair URL`, or `unshard download` with the same manifest, fetches "
        "only these",
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
