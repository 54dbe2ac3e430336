"""Which files a link stands for, and what OPT's releases have beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from unshard import releases
from unshard.cli import display
from unshard.download import PresignedTemplate, RetryPolicy, fetch_tokenizer
from unshard.errors import DigestError, LinkRefusedError, TransferError, UsageError
from unshard.manifest import Manifest, read_manifest

SOON = RetryPolicy(attempts=2)
"""For what a download can do without: no host is waited for long."""


def files(
    template: PresignedTemplate, manifest_path: Path | None, parts: int | None, shards: int | None
) -> Manifest | Sequence[str]:
    """The manifest's files, the parts asked for, or a known release's.

    Raises:
        UsageError: nothing says which, or two things do.
        FormatError: the manifest is malformed.
    """
    if manifest_path and (parts or shards):
        raise UsageError("--manifest names the files already; leave --parts and --shards away")
    if manifest_path:
        return read_manifest(manifest_path)
    if parts := parts or _public_parts(template):
        return template.names(parts, shards)
    if release := releases.BY_TEMPLATE_NAME.get(template.name):
        click.echo(
            f"no --manifest: fetching the {len(release.file_names)} files of {release.name}, "
            "with nothing to verify them against",
            err=True,
        )
        return release.file_names
    if template.is_pattern:
        raise UsageError(
            f"{template}: how many files?",
            hint="give --manifest FILE or --parts NUMBER"
            + (" and --shards NUMBER" if template.has_shards else ""),
        )
    return [template.name]


def _public_parts(template: PresignedTemplate) -> int | None:
    """How many files a pattern of a public release stands for."""
    num_parts = {release.url: release.num_parts for release in releases.PUBLIC.values()}
    return num_parts.get(str(template)) if template.is_pattern else None


def tokenizer(
    template: PresignedTemplate, names: Sequence[str], directory: Path
) -> tuple[str, ...] | None:
    """Put the tokenizer beside a release of OPT: the names of its files.

    None for other weights. Where it cannot be had, that is told and the download goes on: its
    files can be put there by hand.
    """
    if not releases.has_opt_tokenizer(str(template), names):
        return None
    try:
        with display.progress() as progress:
            return fetch_tokenizer(directory, assets=releases.ASSETS, progress=progress, retry=SOON)
    except (TransferError, LinkRefusedError, DigestError) as error:
        click.echo(
            f"no tokenizer: {error.message}; the weights are fetched without. To use them, put "
            f"gpt2-vocab.json and gpt2-merges.txt of {releases.ASSETS} into {directory}",
            err=True,
        )
        return ()
