"""`--manifest`: a file, or a URL."""

from __future__ import annotations

from pathlib import Path

from unshard.errors import LinkRefusedError, UsageError
from unshard.library.deferred import deferred
from unshard.manifest import Manifest, read_manifest

_fetch_manifest = deferred("unshard.download", "fetch_manifest")
"""What is read from the disk needs no HTTP client."""


FRESH = "give --manifest a fresh link, or the file itself"


def read(place: str | Path) -> Manifest:
    """
    Raises:
        UsageError, FormatError: as `read_manifest`.
        TransferError, LinkRefusedError: as `fetch_manifest`.
    """
    if isinstance(place, Path) or "://" not in place:
        return read_manifest(place)
    try:
        manifest: Manifest = _fetch_manifest(place)
    except UsageError as error:
        raise UsageError(f"--manifest: {error.message}", hint=error.hint) from None
    except LinkRefusedError as error:
        raise LinkRefusedError(f"--manifest: {error.message}", hint=FRESH) from None
    return manifest
