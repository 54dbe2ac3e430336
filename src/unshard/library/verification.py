"""Everything that can be verified about a folder: its manifest, and what is known of OPT."""

from __future__ import annotations

from pathlib import Path

from unshard.library.deferred import deferred
from unshard.library.findings import Findings
from unshard.manifest import Manifest
from unshard.progress import Progress
from unshard.releases import TOKENIZER_DIGESTS
from unshard.verify import verify

_prove = deferred("unshard.library.opened_folder", "prove")
"""Reading weights takes imports that hashing does not wait for."""


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
    files = verify(directory, manifest, force=force, progress=progress) if manifest else None
    findings = Findings(str(directory), files)
    if files and not any((directory / name).exists() for name in TOKENIZER_DIGESTS):
        return findings
    proved: Findings = _prove(findings, force=force, progress=progress)
    return proved
