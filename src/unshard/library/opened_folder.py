"""What can be verified of a folder only by opening its weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from unshard.architectures.opt import OPTConfig
from unshard.errors import FormatError, UnshardError, UsageError
from unshard.index.build import open_checkpoint
from unshard.index.checkpoint import Checkpoint
from unshard.library.findings import Findings
from unshard.library.self_checks import check_archives, check_fingerprint, fingerprinted
from unshard.manifest import Manifest
from unshard.progress import Progress
from unshard.releases import OPT_175B_SIZE, OPT_VOCAB_SIZE, PART_NAMES, tokenizer_digests
from unshard.tensors import TensorIndex
from unshard.verify import verify, verify_parts

WEIGHT_PATTERNS = ("*.pt", "*.safetensors")


def prove(findings: Findings, *, force: bool, progress: Progress | None) -> Findings:
    """`findings` with what is known of the tokenizer's files beside such weights and, where no
    manifest was, with all that the weights prove by themselves.

    Raises:
        UsageError: that is nothing, and there was no manifest.
    """
    directory = Path(findings.directory)
    checkpoint = _open(directory)
    config = checkpoint.config if isinstance(checkpoint, Checkpoint) else None
    is_175b = config is None or (config.num_layers, config.hidden_size) == OPT_175B_SIZE
    all_parts = all((directory / name).exists() for name in PART_NAMES)
    has_parts = findings.files is None and is_175b and all_parts
    tokenizer = _tokenizer_manifest(directory, config, has_parts)
    findings = replace(
        findings,
        tokenizer=verify(directory, tokenizer, force=force) if tokenizer else None,
        parts=verify_parts(directory, progress=progress) if has_parts else None,
        damage=checkpoint if isinstance(checkpoint, FormatError) else None,
    )
    return findings if findings.files else _prove_weights(findings, checkpoint, progress)


def _prove_weights(
    findings: Findings, checkpoint: Checkpoint | UnshardError, progress: Progress | None
) -> Findings:
    """With what the weights say of themselves."""
    directory = Path(findings.directory)
    known = findings.parts.known if findings.parts else {}
    archives = [path for path in sorted(directory.glob("*.pt")) if path.name not in known]
    index = checkpoint.index if isinstance(checkpoint, Checkpoint) else checkpoint
    recorded = check_fingerprint(directory, index, progress=progress)
    is_proved = recorded is not None and recorded.is_right
    proved = fingerprinted(index) if is_proved and isinstance(index, TensorIndex) else ()
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
        archives=check_archives(archives, proved=proved, progress=progress) if archives else None,
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
    """What the tokenizer's files must be; None where there are none, or nothing is known of
    them, as beside weights that do not open and so do not say how many tokens they know."""
    has_weights = any(path for pattern in WEIGHT_PATTERNS for path in directory.glob(pattern))
    if config is None and has_weights and not is_175b:
        return None
    vocab_size = config.vocab_size if config else OPT_VOCAB_SIZE
    digests = {
        name: digest
        for name, digest in tokenizer_digests(vocab_size).items()
        if (directory / name).exists()
    }
    is_opts = vocab_size == OPT_VOCAB_SIZE
    source = "OPT's tokenizer" if is_opts else f"a vocabulary of {vocab_size} tokens"
    return Manifest(digests, source) if digests else None
