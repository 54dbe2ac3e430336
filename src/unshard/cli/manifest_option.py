"""`--manifest`: a file, or a URL."""

from __future__ import annotations

from pathlib import Path

from unshard.download import PresignedTemplate, fetch_manifest
from unshard.errors import UsageError
from unshard.manifest import Manifest, read_manifest

Place = Path | PresignedTemplate
"""Where a manifest lies. Neither form shows the query of a URL."""


def place(value: str) -> Place:
    """Where `value` says: a URL if it looks like one, and else a path.

    Raises:
        UsageError: a URL that cannot be one of a file; it is not repeated.
    """
    if "://" not in value:
        return Path(value)
    try:
        return PresignedTemplate.parse(value)
    except UsageError as error:
        raise UsageError(f"--manifest: {error.message}", hint=error.hint) from None


def read(found: Place) -> Manifest:
    """
    Raises:
        UsageError, FormatError: as `read_manifest`.
        TransferError, LinkRefusedError: as `fetch_manifest`.
    """
    return read_manifest(found) if isinstance(found, Path) else fetch_manifest(found)
