"""Which files a link stands for, and what OPT's releases have beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from unshard import releases
from unshard.cli import display, manifest_option
from unshard.cli.stderr import current
from unshard.download import PresignedTemplate, RetryPolicy, fetch_manifest, fetch_tokenizer
from unshard.errors import DigestError, FormatError, LinkRefusedError, TransferError, UsageError
from unshard.manifest import Manifest
from unshard.releases import Release

parts_option: Callable[..., Any] = click.option(
    "--parts", type=click.IntRange(min=1), help="Number of files of a URL with a `*`."
)
shards_option: Callable[..., Any] = click.option(
    "--shards",
    type=click.IntRange(min=1),
    help="Number of files of each part, of a URL with {part} and {shard}.",
)
SOON = RetryPolicy(attempts=2)
"""For what a download can do without: no host is waited for long."""


def files(
    template: PresignedTemplate, place: str | None, parts: int | None, shards: int | None
) -> Manifest | Sequence[str]:
    """The manifest's files, the parts asked for, or a known release's.

    Raises:
        UsageError: nothing says which, or two things do.
        UnshardError: as `manifest_option.read`.
    """
    if place is not None and (parts or shards):
        raise UsageError("--manifest names the files already; leave --parts and --shards away")
    if place is not None:
        manifest = manifest_option.read(place)
        _tell_shared_digests(manifest)
        return manifest
    if parts := parts or _public_parts(template):
        return template.names(parts, shards)
    if release := releases.BY_TEMPLATE_NAME.get(template.name):
        return _of_release(release)
    if template.is_pattern:
        raise UsageError(
            f"{template}: how many files?",
            hint="give --manifest FILE or --parts NUMBER"
            + (" and --shards NUMBER" if template.has_shards else ""),
        )
    return [template.name]


def _tell_shared_digests(manifest: Manifest) -> None:
    for names in manifest.shared_digests():
        current().note(
            f"{manifest.source}: gives {', '.join(names)} one and the same digest; different "
            "files never have that, so expect that all but one of them are refused"
        )


def _of_release(release: Release) -> Manifest | Sequence[str]:
    """Its files by the md5s that metaseq publishes, if they can be had and fit."""
    if release.md5s:
        current().note(f"no --manifest: verifying by the md5s of {release.printed.source}")
        return release.printed
    problem = "no md5s of it are published"
    if release.manifest_name:
        address = releases.ASSETS + release.manifest_name
        try:
            manifest = fetch_manifest(address, retry=SOON)
        except (TransferError, LinkRefusedError, FormatError) as error:
            problem = error.message
        else:
            if set(manifest) == set(release.file_names):
                current().note(f"no --manifest: verifying by {address}")
                return manifest
            problem = f"{address}: does not name its files"
    current().note(
        f"no --manifest: fetching the {len(release.file_names)} files of {release.name}, "
        f"with nothing to verify them against ({problem})"
    )
    return release.file_names


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
        current().note(
            f"no tokenizer: {error.message}; the weights are fetched without. To use them, put "
            f"gpt2-vocab.json and gpt2-merges.txt of {releases.ASSETS} into {directory}"
        )
        return ()
