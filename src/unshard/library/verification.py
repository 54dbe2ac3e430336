"""Everything that can be verified about a folder: its manifest, and what is known of OPT."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unshard.architectures.opt import OPTConfig
from unshard.errors import FormatError, IntegrityError, UnshardError, UsageError
from unshard.index.build import open_checkpoint
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

    def problem(self) -> IntegrityError | None:
        """The first thing that is not what it should be, or None when all is right."""
        if self.files and not self.files.is_right:
            return _wrong_files(self.files)
        if self.parts and self.parts.unknown and self.damage:
            return self.damage
        if self.parts and not self.parts.is_right:
            return _wrong_parts(self.parts)
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
    """Hash what `manifest` names, OPT's tokenizer files wherever they lie and, without a
    manifest, the consolidated parts of OPT-175B.

    Raises:
        UsageError: `directory` is no folder, or holds nothing that can be verified.
    """
    config, damage = _open(directory)
    is_175b = config is None or (config.num_layers, config.hidden_size) == OPT_175B_SIZE
    all_parts = all((directory / name).exists() for name in PART_NAMES)
    has_parts = manifest is None and is_175b and all_parts
    tokenizer = _tokenizer_manifest(directory, config, has_parts)
    if manifest is None and tokenizer is None and not has_parts:
        raise UsageError(
            f"{directory}: has no manifest, and no file whose md5 is known",
            hint="say which manifest with --manifest FILE; a reshard recorded the fingerprint of "
            "its output in unshard.json, which `unshard fingerprint` should print",
        )
    return Findings(
        str(directory),
        verify(directory, manifest, force=force, progress=progress) if manifest else None,
        verify(directory, tokenizer, force=force) if tokenizer else None,
        verify_parts(directory, progress=progress) if has_parts else None,
        damage,
    )


def _open(directory: Path) -> tuple[OPTConfig | None, FormatError | None]:
    """The model's shape, or the broken file that keeps it from opening. A folder without a
    whole checkpoint can be verified nevertheless; what cannot be read is named then."""
    try:
        return open_checkpoint(directory).config, None
    except FormatError as error:
        return None, error
    except (UnshardError, OSError):
        return None, None


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
